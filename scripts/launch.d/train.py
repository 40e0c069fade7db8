"""A training script that is told where its checkpoint is: for the recipes of shells."""

import argparse
import os
import time

import network

options = argparse.ArgumentParser()
options.add_argument("--load")
options.add_argument("--save")
options.add_argument("--local_rank")
options = options.parse_args()
engine = network.engine()
if options.load:
    engine.load_checkpoint(options.load)
network.say("loaded", options.load, engine.global_steps, engine.module)
network.train(engine)
network.say("trained", options.load, engine.global_steps, engine.module)
engine.save_checkpoint(options.save)
# As a run that goes on training until it is ended.
while os.environ.get("LINGER") and not os.path.exists(os.environ["LINGER"]):
    time.sleep(0.1)
network.end()
