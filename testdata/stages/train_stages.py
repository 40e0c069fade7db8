"""Trains one network at each ZeRO stage: python train_stages.py ../corpus/train.py OUT.

Runs the corpus script, with the one key of its configuration left out that only stage 3 gets, so
that what the stages save differs in nothing but the stage.
"""

import os
import runpy
import sys

import deepspeed
import torch.multiprocessing

CASES = {
    "fp32": "--world 3 --two --freeze --tie",
    "bf16": "--world 2 --two --dtype bf16 --gad fp32",
    "fp16": "--world 2 --two --dtype fp16 --sub 30 --sched",
}
TINY = "--d 3 --m 5 --vocab 7 --layers 2"
initialize = deepspeed.initialize


def alike(*args, config, **kwargs):
    config["zero_optimization"].pop("stage3_param_persistence_threshold", None)
    return initialize(*args, config=config, **kwargs)


def rank_main(rank, script, args):
    deepspeed.initialize = alike
    runpy.run_path(script)["run"](rank, *args)


def spawn(function, args, nprocs):
    torch.multiprocessing.start_processes(
        rank_main, (sys.argv[0], args), nprocs, start_method="fork")


def main(script, out):
    torch.multiprocessing.spawn = spawn
    for name, arguments in CASES.items():
        for stage in (1, 2, 3):
            save = os.path.join(out, f"{name}-stage{stage}")
            sys.argv = [script, *arguments.split(), *TINY.split(), "--stage", str(stage),
                        "--save", save]
            runpy.run_path(script, run_name="__main__")
            os.remove(os.path.join(save, "zero_to_fp32.py"))


if __name__ == "__main__":
    main(*sys.argv[1:])
