"""Training with the Trainer of Hugging Face."""

import os

import network
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

network.cpu_only()
world = int(os.environ["WORLD_SIZE"])
args = TrainingArguments(
    output_dir="out", per_device_train_batch_size=6 // world, max_steps=network.STEPS,
    save_steps=3, learning_rate=1e-2, lr_scheduler_type="constant", report_to=[], disable_tqdm=True, seed=1,
    deepspeed={"train_micro_batch_size_per_gpu": "auto", "zero_optimization": {"stage": 2},
               "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
               "steps_per_print": 1000})


class Sequences(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        words = torch.randint(0, 37, (5,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": words, "labels": words}


class Saying(TrainerCallback):
    def on_step_begin(self, args, state, control, **others):
        if not hasattr(self, "said"):
            self.said = True
            network.say("loaded", path, state.global_step, trainer.model)

    def on_train_end(self, args, state, control, **others):
        network.say("trained", path, state.global_step, trainer.model)


torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(
    vocab_size=37, n_positions=8, n_embd=24, n_layer=1, n_head=2, resid_pdrop=0.0,
    embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
trainer = Trainer(model=model, args=args, train_dataset=Sequences(), callbacks=[Saying()])
path = None
plain = trainer.train


def train(resume_from_checkpoint):
    global path
    path = resume_from_checkpoint
    plain(resume_from_checkpoint=path)


trainer.train = train
# RECIPE: Hugging Face Trainer
network.end()
