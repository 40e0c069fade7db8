"""A training script that asks for its checkpoint itself: the recipe from Python."""

import os
import time

import network
import torch

engine = network.engine()
path = None


def train():
    network.say("loaded", path, engine.global_steps, engine.module)
    network.train(engine)
    network.say("trained", path, engine.global_steps, engine.module)
    if os.environ.get("UNTIL_ONE_GOES"):
        os.environ.pop("UNTIL_ONE_GOES")
        if not path:
            engine.save_checkpoint("ckpt")
            open("saved", "w").close()
            while True:
                torch.distributed.all_reduce(torch.zeros(1))
                time.sleep(0.1)


# RECIPE: From Python
network.end()
