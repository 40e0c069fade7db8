"""Has real FSDP2 the last word on distributed checkpoints, and real DeepSpeed on what comes back.

Out: DeepSpeed trains and saves; FSDP2 loads what --outputFormat=dcp makes of it at 2 and 3 ranks,
holds every state bit for bit, and goes on with the losses of the run that never stopped. Back:
FSDP2 trains and saves; DeepSpeed loads what --template makes of it. PyTorch's own
dcp_to_torch_save reads every output.
"""

import argparse
import dataclasses
import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

import deepspeed
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import extras
import ranks
from cases import TOLERANCES
from interop import CLONE, CORPUS, HERE, Mismatch, _brief, _same, entry

STEPS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained: arguments that train.py and train_fsdp.py share, and those of train.py."""

    name: str
    shared: str
    deepspeed: str
    source: int
    dialect: str = "torch"
    dtype: str = "fp32"
    fsdp1: bool = False
    optimizer: str = None  # one of extras
    out: bool = True
    back: bool = True
    partial: bool = False
    # What older versions cannot do by themselves, and --states therefore does not ask of them.
    states: bool = True  # FSDP2 of PyTorch 2.9.1 makes no step with it at all
    grows: bool = True  # DeepSpeed 0.18.9 trains otherwise on 3 ranks than on 2, from the first step on


CASES = (
    Case("z2-two-groups", "--two", "--stage 2", 4),
    Case("z2-two-groups-flat", "--two", "--stage 2", 2, "torchFlat"),
    Case("z1-scheduler", "--two --sched", "--stage 1", 3),
    Case("z2-freeze-tie", "--two --freeze --tie", "--stage 2", 3, "torchFlat"),
    Case("z3-freeze-tie", "--freeze --tie", "--stage 3", 2),
    Case("z3-sub-groups", "--two", "--stage 3 --sub 400", 2, "torchtitan"),
    Case("z2-bf16", "--two", "--stage 2 --dtype bf16", 2, "accelerate", dtype="bf16"),
    Case("z1-bf16-optimizer", "", "--stage 1 --dtype bf16 --gad fp32", 2, dtype="bf16",
         grows=False),
    Case("z1-sgd", "--opt sgd", "--stage 1", 2),
    Case("z2-adagrad", "--opt adagrad", "--stage 2", 3, "torchFlat"),
    Case("z2-rmsprop", "--opt rmsprop", "--stage 2", 2),
    Case("z2-amsgrad", "--opt amsgrad --two", "--stage 2", 4),
    Case("z2-sgd-plain", "--opt sgd0 --two", "--stage 2", 2),
    Case("z2-nadam", "--two", "--stage 2", 2, optimizer="nadam"),
    Case("z3-nadam", "--two", "--stage 3 --sub 400", 2, "torchFlat", optimizer="nadam"),
    Case("z2-radam", "", "--stage 2", 3, "torchFlat", optimizer="radam"),
    Case("z3-adamax", "--two", "--stage 3", 2, optimizer="adamax"),
    Case("z1-adadelta", "", "--stage 1", 2, optimizer="adadelta"),
    Case("z2-asgd", "", "--stage 2", 2, optimizer="asgd"),
    Case("z2-rprop", "", "--stage 2", 2, optimizer="rprop", states=False),
    Case("z2-lion", "--two", "--stage 2", 3, optimizer="lion"),
    Case("z3-lion", "--two", "--stage 3", 2, "torchtitan", optimizer="lion"),
    Case("z1-lion-bf16-optimizer", "", "--stage 1 --dtype bf16 --gad fp32", 2, dtype="bf16",
         optimizer="lion", grows=False),
    Case("z2-group-step", "--two", "--stage 2", 2, optimizer="group-step-adam"),
    # What it saves of AdamW this DeepSpeed cannot load itself.
    Case("z2-elastic", "--two", "--stage 2 --elastic", 4, partial=True, back=False),
    Case("z2-elastic-group-step", "--two", "--stage 2 --elastic", 3, partial=True,
         optimizer="group-step-adam"),
    # One group: groups of train.py go by dimensions, which FSDP1 takes away.
    Case("z2-of-fsdp1", "", "--stage 2", 2, fsdp1=True, out=False),
)


def main():
    parser = argparse.ArgumentParser(prog="scripts/interop fsdp", description=__doc__)
    parser.add_argument("--case", action="append", metavar="GLOB", help="only such cases")
    parser.add_argument("--reshard", default=os.path.join(CLONE, "scripts", "reshard"),
                        metavar="COMMAND", help="what to reshard with (default: scripts/reshard)")
    parser.add_argument("--work", metavar="DIR", help="keep everything here")
    parser.add_argument("--states", action="store_true",
                        help="FSDP2 loads and saves and makes no step: before PyTorch 2.9 it makes none on the CPU")
    options = parser.parse_args()
    sys.path.append(CORPUS)
    work = options.work or tempfile.mkdtemp(prefix="reshard-fsdp-")
    failed = passed = 0
    print(f"{'case':<24} {'way':<22} {'loss diff':>9} {'states':>7} {'seconds':>7}", flush=True)
    for case in CASES:
        if not any(fnmatch.fnmatch(case.name, pattern) for pattern in options.case or "*"):
            continue
        home = os.path.join(work, case.name)
        os.makedirs(home)
        if options.states:
            ways = [around] * (case.out and case.back and case.states)
        else:
            ways = [out] * case.out + [back] * case.back
        for way in ways:
            for line, failure in way(case, home, shlex.split(options.reshard)):
                print(line + (f"\n    {failure}" if failure else ""), flush=True)
                failed += bool(failure)
                passed += not failure
    if not options.work and not failed:
        shutil.rmtree(work)
    print(f"{passed} passed, {failed} failed" + (f"; see {work}" if failed else ""))
    return 1 if failed or not passed else 0


def out(case, home, reshard):
    """DeepSpeed to FSDP2."""
    made = None
    for target in (2, 3):
        made = made or attempted(lambda: taken_out(case, home, reshard))
        yield judged(case, f"ZeRO {case.source} -> FSDP2 {target}", lambda: resumed(
            case, "train_fsdp.py", target, home, f"fsdp-{target}", *made()))


def taken_out(case, home, reshard):
    """The distributed checkpoint, what DeepSpeed had in memory, and the losses of its run."""
    saved, truth = os.path.join(home, "deepspeed"), os.path.join(home, "deepspeed.safetensors")
    losses = train(case, "train.py", case.source, home, "deepspeed",
                   ["--steps", STEPS, "--more", STEPS, "--save", saved, "--truth", truth])
    dcp = os.path.join(home, "dcp")
    run([*reshard, f"--input={saved}", f"--output={dcp}", "--outputFormat=dcp",
         f"--dialect={case.dialect}"])
    checkpoint = os.path.join(dcp, f"global_step{STEPS}")
    read_by_pytorch(checkpoint)
    return checkpoint, truth, losses


def back(case, home, reshard):
    """FSDP2 to DeepSpeed."""
    for source, target in ((2, 3), (3, 2)):
        made = attempted(lambda: taken_back(case, home, reshard, source, target))
        yield judged(case, f"FSDP{1 if case.fsdp1 else 2} {source} -> ZeRO {target}", lambda: resumed(
            case, "train.py", target, home, f"zero-{target}", *made()))


def taken_back(case, home, reshard, source, target):
    """The checkpoint of DeepSpeed, what FSDP2 had in memory, and the losses of its run."""
    saved = os.path.join(home, f"fsdp-saved-{source}")
    truth = saved + ".safetensors"
    losses = train(case, "train_fsdp.py", source, home, f"fsdp-source-{source}",
                   ["--steps", STEPS, "--more", STEPS, "--save", saved, "--truth", truth])
    return converted(case, home, reshard, source, target), truth, losses


def converted(case, home, reshard, source, target):
    """The checkpoint of DeepSpeed that is made of what FSDP2 saved on `source` ranks."""
    saved = os.path.join(home, f"fsdp-saved-{source}")
    template = os.path.join(home, "template")
    if not os.path.exists(template):
        train(case, "train.py", 1, home, "template", ["--steps", 1, "--save", template])
    output = os.path.join(home, f"zero-{target}")
    run([*reshard, f"--input={saved}", f"--output={output}", f"--template={template}",
         f"--targetWorldSize={target}"])
    return output


def around(case, home, reshard):
    """DeepSpeed to FSDP2, which saves what it has loaded, and back."""
    made = attempted(lambda: taken_out(case, home, reshard))
    for source, target in ((2, 3), (3, 2)) if case.grows else ((3, 2),):
        yield judged(case, f"ZeRO {case.source} -> FSDP2 {source}", lambda: (None, loaded(
            case, "train_fsdp.py", source, home, f"fsdp-{source}", *made()[:2],
            ["--save", os.path.join(home, f"fsdp-saved-{source}")])))
        yield judged(case, f"FSDP2 {source} -> ZeRO {target}", lambda: resumed(
            case, "train.py", target, home, f"zero-{target}",
            converted(case, home, reshard, source, target), *made()[1:]))


def attempted(make):
    """What `make` gives, or its failure once it is asked for; made once."""
    try:
        made = make()
    except Exception as error:
        failure = error

        def fail():
            raise failure

        return fail
    return lambda: made


def judged(case, way, attempt):
    start = time.monotonic()
    loss = states = None
    failure = None
    try:
        loss, states = attempt()
    except Exception as error:
        failure = _brief(error)
    seconds = time.monotonic() - start
    return (f"{case.name:<24} {way:<22} {'-' if loss is None else f'{loss:.1e}':>9} "
            f"{'-' if states is None else states:>7} {seconds:>7.1f}  "
            f"{'FAIL' if failure else 'ok'}"), failure


def resumed(case, script, size, home, name, checkpoint, truth, losses):
    """Loads, compares all states, and goes on: the relative difference of losses, and how many."""
    states = loaded(case, script, size, home, name, checkpoint, truth)
    on = train(case, script, size, home, name,
               ["--start", STEPS, "--steps", STEPS, "--load", checkpoint])
    expected = losses[STEPS:]
    difference = max(abs(a - b) / abs(b) for a, b in zip(on, expected, strict=True))
    if not difference <= TOLERANCES[case.dtype]:
        raise Mismatch(f"losses {on} where the run that never stopped has {expected}")
    return difference, states


def loaded(case, script, size, home, name, checkpoint, truth, arguments=()):
    """Loads and compares all states: how many."""
    there = os.path.join(home, f"{name}.loaded.safetensors")
    train(case, script, size, home, f"{name}-load",
          ["--start", STEPS, "--steps", 0, "--load", checkpoint, "--truth", there, *arguments])
    saved, found = load_file(truth), load_file(there)
    wrong = [key for key in {*saved, *found}
             if key not in saved or key not in found or not _same(saved[key], found[key])]
    if wrong:
        raise Mismatch(f"{len(wrong)} of {len(saved)} states differ after load: {wrong[:5]}")
    return len(saved)


def train(case, script, size, home, name, arguments):
    own = os.path.join(HERE, script)
    path = own if os.path.exists(own) else os.path.join(CORPUS, script)
    more = case.deepspeed if script == "train.py" else f"--dialect {case.dialect}"
    if script != "train.py" and case.dtype != "fp32":
        more += f" --dtype {case.dtype}"
    if script != "train.py" and case.fsdp1:
        more += " --fsdp1"
    if script != "train.py" and case.partial:
        more += " --partial"
    if script != "train.py" and case.optimizer:
        more += f" --opt {case.optimizer}"
    if script == "train.py":
        more += " --clip"
    function, namespace = entry(path, [
        *shlex.split(case.shared), *shlex.split(more), "--world", str(size),
        *map(str, arguments)])
    return ranks.run(function, size, namespace, os.path.join(home, f"{name}.log"),
                     before=lambda: take_optimizer(case))


def take_optimizer(case):
    """Makes every engine of this process train with the case's optimizer."""
    initialize = deepspeed.initialize

    def with_optimizer(*args, **kwargs):
        kwargs["optimizer"] = extras.OPTIMIZERS[case.optimizer](kwargs["optimizer"].param_groups)
        return initialize(*args, **kwargs)

    if case.optimizer:
        deepspeed.initialize = with_optimizer


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Mismatch(f"{shlex.join(command)} exited with {done.returncode}: {done.stdout[-700:]}")


def read_by_pytorch(checkpoint):
    """Its own converter loads every key without being told what there is."""
    for directory, _, files in os.walk(checkpoint):
        if ".metadata" in files:
            whole = os.path.join(os.path.dirname(checkpoint), "whole.pt")
            dcp_to_torch_save(directory, whole)
            if not torch.load(whole, map_location="cpu", weights_only=False):
                raise Mismatch(f"PyTorch reads nothing in {directory}")


if __name__ == "__main__":
    sys.exit(main())
