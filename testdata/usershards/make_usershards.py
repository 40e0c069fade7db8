"""Makes the cases beside this file with real DeepSpeed:
scripts/interop python testdata/usershards/make_usershards.py DIR [CASE...]

Each case is what the user of DeepSpeed issue 7628 has: one torch.save(optimizer.state_dict()) a
rank and the model. `reference-M` is the same state saved in the same way by M ranks that resumed it
through DeepSpeed's Universal Checkpoint. The scripts of testdata/corpus train.
"""

import glob
import os
import shutil
import sys
import types

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = os.path.join(os.path.dirname(HERE), "corpus")
sys.path += [os.path.join(os.path.dirname(os.path.dirname(HERE)), "scripts", "interop.d"), CORPUS]

import torch  # noqa: E402

import ranks  # noqa: E402
from corpus import TAG, UNIVERSAL, _convert  # noqa: E402
from interop import entry  # noqa: E402

NET = "--d 5 --m 6 --vocab 7 --layers 2"

# name: (ranks, sizes of the references, arguments of train.py)
CASES = {
    "z1-fp32": (3, (2,), f"--stage 1 {NET}"),
    "z2-fp16-twogroups": (2, (3,), f"--stage 2 --dtype fp16 --two {NET}"),
    "z1-bf16-optimizer": (2, (3,), f"--stage 1 --dtype bf16 --gad fp32 --two {NET}"),
    "z2-bf16": (4, (2,), f"--stage 2 --dtype bf16 {NET}"),
    "z2-roundrobin-fp16": (3, (), f"--stage 2 --dtype fp16 --round_robin --two {NET}"),
    "z2-elastic": (4, (), f"--stage 2 --elastic --two {NET}"),
    "z1-sgd-plain": (2, (), f"--stage 1 --opt sgd0 {NET}"),
    "z2-adagrad": (3, (), f"--stage 2 --opt adagrad {NET}"),
    "z3-fp32": (2, (3,), f"--stage 3 {NET}"),
    "z3-bf16-subgroups": (2, (3,), f"--stage 3 --dtype bf16 --two --sub 40 {NET}"),
    "moe-z2-fp32": (4, (), "--stage 2 --dtype fp32"),
}


def main():
    directory, *chosen = sys.argv[1:]
    for name in chosen or CASES:
        world, references, arguments = CASES[name]
        home = os.path.join(directory, name)
        os.makedirs(home)
        make(home, world, references, arguments.split(), name.startswith("moe"))
        print(name, flush=True)


def make(home, world, references, arguments, moe):
    log, source, universal = (os.path.join(home, x) for x in ("log", "source", "universal"))
    saving = ["--steps", "3", "--more", "0", "--save", source]
    if moe:
        train("train_moe.py", world, [*arguments, *saving], log, saves_state_dict(home))
    else:
        train("train.py", world, [*arguments, *saving, "--user", os.path.join(home, "user")], log)
    if "3" in arguments[:2]:
        consolidate(source, os.path.join(home, "user", "pytorch_model.bin"), log)
    if references:
        _convert(os.path.join(source, TAG), os.path.join(universal, UNIVERSAL), log)
    for size in references:
        reference = os.path.join(home, f"reference-{size}")
        train("train.py", size,
              [*arguments, "--universal", "--load", universal, "--tag", UNIVERSAL, "--start", "3",
               "--steps", "0", "--more", "0", "--user", reference], log)
        os.remove(os.path.join(reference, "pytorch_model.bin"))
    shutil.rmtree(source)
    shutil.rmtree(universal, ignore_errors=True)
    os.remove(log)


def train(script, world, arguments, log, before=None):
    function, namespace = entry(os.path.join(CORPUS, script), ["--world", str(world), *arguments])
    return ranks.run(function, world, namespace, log, before=before)


def saves_state_dict(home):
    """train_moe.py has no --user: save_checkpoint is what tells that it is time to save."""
    def before():
        from deepspeed.runtime.engine import DeepSpeedEngine

        save = DeepSpeedEngine.save_checkpoint

        def save_also(engine, *arguments, **options):
            user = os.path.join(home, "user")
            os.makedirs(user, exist_ok=True)
            rank = torch.distributed.get_rank()
            torch.save(engine.optimizer.state_dict(), os.path.join(user, f"optimizer.{rank:02d}.pt"))
            return save(engine, *arguments, **options)

        DeepSpeedEngine.save_checkpoint = save_also

    return before


def consolidate(source, path, log):
    """A ZeRO-3 module holds no weights of its own; this is how a user gets them in one file. In the
    order of the module, as Accelerate's get_state_dict has them."""
    def work(rank, world, a):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
        from train import Net

        weights = get_fp32_state_dict_from_zero_checkpoint(source)
        torch.save({name: weights[name].clone() for name in Net().state_dict()}, path)

    ranks.run(work, 1, types.SimpleNamespace(), log)


if __name__ == "__main__":
    main()
