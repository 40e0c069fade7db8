"""Regenerates testdata/corpus with real DeepSpeed: scripts/interop corpus DIR [CASE...]

For each case it trains at the source size and saves (`source/`, `truth.safetensors`, `user/`, the
losses), lets DeepSpeed convert that to a Universal Checkpoint (`universal/`), resumes it at every
other size and saves at once (`reference-M/`). Which of these a case has, and the arguments, are
read from the case in testdata/corpus. `scripts/interop compare testdata/corpus/CASE DIR/CASE`
says what differs from the files there.
"""

import argparse
import glob
import json
import os
import re
import sys
import types

import ranks
from interop import CORPUS, entry

TAG = "global_step3"
UNIVERSAL = f"{TAG}_universal"


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/interop corpus", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR", help="where to write; must not hold the case")
    parser.add_argument("cases", metavar="CASE", nargs="*", help="default: all")
    options = parser.parse_args()
    known = sorted(os.path.dirname(path) for path in glob.glob(os.path.join(CORPUS, "*", "case.json")))
    names = [os.path.basename(path) for path in known]
    unknown = set(options.cases) - set(names)
    if unknown or not names:
        parser.error(f"no such case in {CORPUS}: {sorted(unknown)}; there are {names}")
    for pattern, name in zip(known, names):
        if not options.cases or name in options.cases:
            _regenerate(pattern, os.path.join(options.directory, name))
            print(name, flush=True)
    return 0


def _regenerate(pattern, directory):
    with open(os.path.join(pattern, "case.json")) as text:
        case = json.load(text)
    has = set(os.listdir(pattern))
    os.makedirs(directory)
    at = lambda name: os.path.join(directory, name)
    log = at("log")
    saving = ["--steps", "3", "--more", "3", "--save", at("source")]
    saving += ["--truth", at("truth.safetensors")] if "truth.safetensors" in has else []
    saving += ["--user", at("user")] if "user" in has else []
    case["losses"] = _train(case, case["source_world"], _degrees(case), saving, log)
    references = sorted(name for name in has if name.startswith("reference-"))
    if references:
        _convert(os.path.join(at("source"), TAG), os.path.join(at("universal"), UNIVERSAL), log)
    losses = {}
    for reference in references:
        size = reference.removeprefix("reference-")
        other = re.fullmatch(r"tp(\d+)-dp(\d+)", size)
        degrees = {"tp": int(other[1])} if other else _degrees(case)
        data_parallel = int(other[2]) if other else int(size)
        losses[size] = _train(
            case, data_parallel, degrees,
            ["--universal", "--load", at("universal"), "--tag", UNIVERSAL, "--start", "3",
             "--steps", "0", "--more", "3", "--save", at(reference)]
            + (["--savetag", TAG] if case["produced_by"]["script"] == "train.py" else []), log)
    if losses:
        case["deepspeed_universal_resume_losses"] = losses
    for copy in glob.glob(os.path.join(directory, "*", "zero_to_fp32.py")):
        os.remove(copy)
    os.remove(log)
    with open(at("case.json"), "w") as text:
        json.dump(case, text, indent=1)


def _degrees(case):
    """The pipeline or tensor-parallel degree, by its option. Expert parallelism lies within the
    data-parallel size and is no degree of its own."""
    arguments = case["train_args"]
    return {name: int(arguments[arguments.index(f"--{name}") + 1])
            for name in ("pp", "tp") if f"--{name}" in arguments}


def _train(case, data_parallel, degrees, arguments, log):
    world = data_parallel
    argv = list(case["train_args"])
    for name, degree in degrees.items():
        world *= degree
        argv += [f"--{name}", str(degree)]
    script = os.path.join(CORPUS, case["produced_by"]["script"])
    function, namespace = entry(script, [*argv, "--world", str(world), *arguments])
    return ranks.run(function, world, namespace, log)


def _convert(source, target, log):
    def convert(rank, world, a):
        from deepspeed.checkpoint import ds_to_universal

        ds_to_universal.main(types.SimpleNamespace(
            input_folder=source, output_folder=target, num_extract_workers=1, num_merge_workers=1,
            keep_temp_folder=False, strict=True, inject_missing_state=True))

    ranks.run(convert, 1, types.SimpleNamespace(), log)


if __name__ == "__main__":
    sys.exit(main())
