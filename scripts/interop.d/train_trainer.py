"""A tiny GPT-2 trained by the Hugging Face Trainer: checkpoint-3/ and resume_from_checkpoint."""

import argparse
import json
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import train


class Sequences(torch.utils.data.Dataset):
    def __len__(self):
        return 24 * 6

    def __getitem__(self, index):
        words = torch.randint(0, 37, (5,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": words, "labels": words}


def run(rank, world, a):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(a.port), ACCELERATE_USE_DEEPSPEED="true",
        HF_HUB_OFFLINE="1")
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

    train.cpu_only()
    set_seed(1)
    total = a.start + a.steps + a.more
    arguments = TrainingArguments(
        output_dir=a.save or os.path.join(os.path.dirname(a.load), "trainer"), per_device_train_batch_size=24 // world, max_steps=6,
        save_steps=3, save_strategy="steps" if a.save else "no", learning_rate=1e-2, weight_decay=0.1, warmup_steps=2,
        report_to=[], disable_tqdm=True, logging_strategy="no", seed=1, max_grad_norm=1.0,
        deepspeed={"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": 1,
                   "zero_optimization": {"stage": a.stage}, "gradient_clipping": "auto",
                   "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
                   "steps_per_print": 1000})
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=37, n_positions=8, n_embd=24, n_layer=2, n_head=2, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
    losses = []

    class Recording(Trainer):
        def get_train_dataloader(self):
            # On resume Trainer takes the batch size of each rank from trainer_state.json, whatever
            # its arguments say: at another number of ranks the global batch would be another one.
            self._train_batch_size = self.args.train_batch_size
            return super().get_train_dataloader()

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            mean = loss.detach().float().clone()
            dist.all_reduce(mean)
            losses.append(mean.item() / world)
            return loss

    trainer = Recording(model=model, args=arguments, train_dataset=Sequences())
    trainer.train(resume_from_checkpoint=a.load)
    assert trainer.state.global_step == total, trainer.state
    if rank == 0:
        print("LOSS", json.dumps(losses))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    for option, kind, default in [("world", int, 2), ("stage", int, 2), ("start", int, 0),
                                  ("steps", int, 3), ("more", int, 0), ("port", int, 29571),
                                  ("save", str, None), ("load", str, None)]:
        p.add_argument(f"--{option}", type=kind, default=default)
    a = p.parse_args()
    mp.spawn(run, args=(a.world, a), nprocs=a.world)
