"""Training with Accelerate."""

import os

import network
import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin

network.cpu_only()
world = int(os.environ["WORLD_SIZE"])
config = network.zero_config(world)
del config["optimizer"]
config.update(zero_allow_untested_optimizer=True, zero_force_ds_cpu_optimizer=False)
accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config))
model = network.model()
model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.01))
path = None
plain = accelerator.load_state


def load_state(directory):
    global path
    path = directory
    plain(directory)


accelerator.load_state = load_state
# RECIPE: Accelerate
network.say("loaded", path, model.global_steps, model.module)
while model.global_steps < network.STEPS:
    mine = network.batch(model.global_steps, accelerator.process_index, world)
    accelerator.backward(model(mine).square().mean())
    optimizer.step()
    optimizer.zero_grad()
network.say("trained", path, model.global_steps, model.module)
accelerator.save_state("state")
network.end()
