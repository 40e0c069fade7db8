"""Training with Hugging Face Trainer (which keeps two checkpoints and deletes the others),
Accelerate and Lightning, on the CPU, while it is followed; and going on from what was made of it.

  frameworks.py train trainer|accelerate|lightning DIR RANKS
                           saves each step; what each has to hold goes to DIR.want/STEP.pt
  frameworks.py load trainer|accelerate|lightning CHECKPOINT RANKS WANTS
                           every state of every parameter is that, bit for bit, and it trains on
"""

import os
import re
import sys
import time

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import torch.multiprocessing as mp

import run

STEPS = 6
# So long a checkpoint is the newest one at least.
SECONDS = 3
CONFIG = {"train_micro_batch_size_per_gpu": "auto", "zero_optimization": {"stage": 2},
          "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
          "steps_per_print": 1000}


def cpu_only():
    """What these ask for and the CPU has not, and what DeepSpeed would compile here."""
    import deepspeed.comm.torch
    from deepspeed.accelerator import get_accelerator
    get_accelerator()
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None


class Check:
    """Says what was saved when it trains, and compares when it goes on."""

    def __init__(self, what, place, want):
        self.training, self.place, self.want, self.loaded = what == "train", place, want, False

    def saved(self, engine):
        if self.training:
            whole = run.states(engine)
            if engine.global_rank == 0:
                os.makedirs(self.place + ".want", exist_ok=True)
                torch.save(whole, f"{self.place}.want/{engine.global_steps}.pt")
            time.sleep(SECONDS)

    def begins(self, engine):
        if not self.training and not self.loaded:
            found, wanted = run.states(engine), torch.load(self.want)
            assert found.keys() == wanted.keys()
            for key, value in wanted.items():
                assert torch.equal(found[key], value), f"{key} differs"
            self.loaded = True

    def end(self):
        assert self.training or self.loaded, "nothing was loaded"

    def last(self):
        """The step that it ends after."""
        return STEPS if self.training else int(torch.load(self.want)["global_steps"]) + 1


def trainer(check, world, path):
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    class Sequences(torch.utils.data.Dataset):
        def __len__(self):
            return 120

        def __getitem__(self, index):
            words = torch.randint(0, 37, (5,), generator=torch.Generator().manual_seed(index))
            return {"input_ids": words, "labels": words}

    class Checking(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            check.begins(made.model_wrapped)

        def on_save(self, args, state, control, **others):
            check.saved(made.model_wrapped)

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=37, n_positions=8, n_embd=24, n_layer=1, n_head=2, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
    args = TrainingArguments(
        output_dir=check.place if check.training else "gone-on",
        per_device_train_batch_size=12 // world, max_steps=check.last(), save_steps=1,
        save_strategy="steps" if check.training else "no", save_total_limit=2, learning_rate=1e-2,
        lr_scheduler_type="constant", report_to=[], disable_tqdm=True, logging_strategy="no", seed=1,
        deepspeed=CONFIG)
    made = Trainer(model=model, args=args, train_dataset=Sequences(), callbacks=[Checking()])
    made.train(resume_from_checkpoint=path)


def accelerate(check, world, path):
    from accelerate import Accelerator
    from accelerate.utils import DeepSpeedPlugin, ProjectConfiguration

    config = {**CONFIG, "train_micro_batch_size_per_gpu": 12 // world}
    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config),
        project_config=ProjectConfiguration(
            project_dir=os.path.dirname(check.place), automatic_checkpoint_naming=check.training))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(13, 29), torch.nn.Tanh(), torch.nn.Linear(29, 7))
    model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=1e-2))
    if path:
        accelerator.load_state(path)
    while model.global_steps < check.last():
        check.begins(model)
        rows = torch.randn(12 // world, 13, generator=torch.Generator().manual_seed(model.global_steps))
        accelerator.backward(model(rows).square().mean())
        optimizer.step()
        optimizer.zero_grad()
        if check.training:
            accelerator.save_state()
            check.saved(model)


def lightning(check, world, path):
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy

    class OnTheCpu(DeepSpeedStrategy):
        """Without its questions for CUDA devices."""

        root_device = torch.device("cpu", 0)

        def setup_environment(self):
            DDPStrategy.setup_environment(self)

        def setup_distributed(self):
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    class Network(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(13, 29), torch.nn.Tanh(), torch.nn.Linear(29, 7))

        def training_step(self, batch, index):
            return self.inner(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

        def train_dataloader(self):
            rows = torch.randn(120, 13, generator=torch.Generator().manual_seed(1))
            return torch.utils.data.DataLoader(rows, batch_size=12 // world)

        def on_train_batch_start(self, batch, index):
            engine = self.trainer.strategy.deepspeed_engine
            check.begins(engine)
            if engine.global_steps > 0:
                check.saved(engine)

        def on_train_end(self):
            check.saved(self.trainer.strategy.deepspeed_engine)

    torch.manual_seed(0)
    callbacks = [ModelCheckpoint(check.place, save_top_k=-1, every_n_train_steps=1)] if check.training else []
    made = pl.Trainer(
        accelerator="cpu", devices=world, max_steps=check.last(), logger=False,
        strategy=OnTheCpu(config={**CONFIG, "train_micro_batch_size_per_gpu": 12 // world},
                          process_group_backend="gloo"),
        enable_progress_bar=False, enable_checkpointing=check.training, callbacks=callbacks)
    made.fit(Network(), ckpt_path=path)


def rank(rank, world, framework, check, path):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ["FOLLOW_PORT"], ACCELERATE_USE_DEEPSPEED="true")
    cpu_only()
    {"trainer": trainer, "accelerate": accelerate}[framework](check, world, path)
    check.end()


if __name__ == "__main__":
    what, framework, place, ranks, *wants = sys.argv[1:]
    # Accelerate counts from 0.
    step = wants and int(re.findall(r"\d+", place)[-1]) + (framework == "accelerate")
    check = Check(what, os.path.abspath(place), wants and f"{wants[0]}/{step}.pt")
    path = None if what == "train" else os.path.abspath(place)
    if framework == "lightning":  # starts the others itself
        os.environ.setdefault("MASTER_PORT", os.environ["FOLLOW_PORT"])
        cpu_only()
        lightning(check, int(ranks), path)
        check.end()
    else:
        mp.spawn(rank, args=(int(ranks), framework, check, path), nprocs=int(ranks))
