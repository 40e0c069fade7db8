"""Training with Lightning, whose strategy for DeepSpeed runs on the CPU only when it is told so."""

import os

import network
import pytorch_lightning as pl
import torch
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
        self.inner = network.model()

    def training_step(self, batch, index):
        return self.inner(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def train_dataloader(self):
        rows = torch.cat([network.batch(step, 0, 1) for step in range(10)])
        return torch.utils.data.DataLoader(rows, batch_size=6 // self.trainer.world_size)

    def on_train_batch_start(self, batch, index):
        if not hasattr(self, "said"):
            self.said = True
            network.say("loaded", path, self.global_step, self)

    def on_train_end(self):
        network.say("trained", path, self.global_step, self)


network.cpu_only()
config = network.zero_config(int(os.environ["RANKS"]))
del config["optimizer"]
config.update(zero_allow_untested_optimizer=True, zero_force_ds_cpu_optimizer=False)
trainer = pl.Trainer(
    accelerator="cpu", devices=int(os.environ["RANKS"]), max_steps=network.STEPS, logger=False,
    strategy=OnTheCpu(config=config, process_group_backend="gloo"), enable_progress_bar=False,
    callbacks=[ModelCheckpoint("checkpoints", save_last=True, every_n_train_steps=1)])
model = Network()
path = None
plain = trainer.fit


def fit(model, ckpt_path):
    global path
    path = ckpt_path
    plain(model, ckpt_path=path)


trainer.fit = fit
# RECIPE: Lightning
network.end()
