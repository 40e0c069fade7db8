"""Has real DeepSpeed the last word: trains, saves, reshards, resumes, compares. See --help."""

import argparse
import dataclasses
import fnmatch
import glob
import hashlib
import json
import math
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

import torch
import torch.multiprocessing
from safetensors.torch import load_file

import old_deepspeed  # noqa: F401, before anything that imports DeepSpeed
import compare
import observe
import ranks
from cases import CASES, TOLERANCES, VERSIONS

HERE = os.path.dirname(os.path.abspath(__file__))
CLONE = os.path.dirname(os.path.dirname(HERE))
CORPUS = os.path.join(CLONE, "testdata", "corpus")
STEPS = 3
# Old versions touch all of a bucket of 5e8 elements by default, which takes most of a run's time.
SMALL = {"zero_optimization": {"reduce_bucket_size": 100_000, "allgather_bucket_size": 100_000}}
MANIFEST = "reshard-manifest.json"  # of the tag, and nothing of DeepSpeed's
# What a run says anew: micro-batches are fewer, and a single tensor-parallel rank says nothing of how parameters are cut.
OF_ONE_DEGREE = ("ds_config", "universal_checkpoint_info")


class Mismatch(Exception):
    """What DeepSpeed loaded, or how it went on, is not what was saved."""


@dataclasses.dataclass
class Row:
    """One line of the summary."""

    case: str
    source: int
    target: int
    seconds: float = 0.0
    loss: float = None
    states: int = None
    failure: str = None
    note: str = ""


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/interop",
        description="Trains with real DeepSpeed on the CPU, saves, reshards, resumes with plain "
        "load_checkpoint at another size, and compares with the run that never stopped.")
    parser.add_argument("--all", action="store_true", help="the whole matrix, not the small one")
    parser.add_argument("--case", action="append", metavar="GLOB",
                        help="only cases with such names, at all their sizes; may be repeated")
    parser.add_argument("--versions", action="store_true",
                        help="the rows of scripts/interop versions, whose files are also compared "
                        "with what this DeepSpeed itself writes after the load")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--reshard", default=os.path.join(CLONE, "scripts", "reshard"),
                        metavar="COMMAND", help="what to reshard with (default: scripts/reshard)")
    parser.add_argument("--work", metavar="DIR",
                        help="keep all checkpoints, logs and snapshots here (default: a temporary "
                        "directory, kept only if something fails)")
    options = parser.parse_args()
    sys.path.append(CORPUS)
    chosen = [c for c in CASES if _chosen(c, options)]
    if options.versions:
        chosen = [dataclasses.replace(c, config={**(c.config or {}), **SMALL}) for c in chosen]
    if options.list:
        for case in chosen:
            print(case.name, f"{case.source}->{','.join(map(str, _targets(case, options)))}")
        return 0
    if not chosen:
        parser.error(f"no case matches {options.case}")
    work = options.work or tempfile.mkdtemp(prefix="reshard-interop-")
    os.makedirs(work, exist_ok=True)
    print(f"{'case':<38} {'ranks':>8}  {'loss diff':>9} {'states':>7} {'seconds':>7}", flush=True)
    rows = []
    for case in chosen:
        for row in _run(case, _targets(case, options), work, shlex.split(options.reshard),
                        options.versions):
            rows.append(row)
            print(_line(row), flush=True)
    failed = [row for row in rows if row.failure]
    print("loss diff: the largest relative difference of a resumed step's loss; "
          "states: tensors in full shape that were equal bit for bit")
    for row in failed:
        print(f"FAILED: {row.case} {row.source} -> {row.target}")
    if failed:
        print(f"logs and checkpoints: {work}")
    elif not options.work:
        shutil.rmtree(work)
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _chosen(case, options):
    if options.versions:
        return case.name in VERSIONS and any(
            fnmatch.fnmatch(case.name, pattern) for pattern in options.case or "*")
    if options.case:
        return any(fnmatch.fnmatch(case.name, pattern) for pattern in options.case)
    return bool(_targets(case, options))


def _targets(case, options):
    if options.versions:
        return (VERSIONS[case.name],) if case.name in VERSIONS else ()
    return (*case.small, *case.targets) if options.all or options.case else case.small


def _run(case, targets, work, reshard, save_again=False):
    """Trains the case's source once and yields one row for each target."""
    home = os.path.join(work, case.name)
    os.makedirs(home)
    saved = os.path.join(home, "source")
    start = time.monotonic()
    try:
        losses = _train_source(case, home, saved)
        snapshot = _snapshot(home, "saved")
    except Exception as error:
        seconds = time.monotonic() - start
        failure = f"training the source: {_brief(error)}"
        yield from (Row(case.name, case.source, t, seconds, failure=failure) for t in targets)
        return
    training = time.monotonic() - start
    if case.convert:
        saved = _converted(saved, os.path.join(home, "universal"))
    if case.opened:
        saved = _opened(reshard, saved, os.path.join(home, "open"))
    checkpoint = os.path.join(saved, case.checkpoint)
    before = _digests(checkpoint)
    for target in targets:
        start = time.monotonic() - training
        training = 0.0
        row = Row(case.name, case.source, target)
        try:
            there = os.path.join(home, f"to-{target}")
            os.makedirs(there)
            output = os.path.join(there, "output")
            _reshard(reshard, case, checkpoint, output, target)
            if _digests(checkpoint) != before:
                raise Mismatch("the source checkpoint was changed")
            _check_files(checkpoint, output)
            _resume(case, target, there, output, losses, snapshot, row)
            if save_again or case.resume_degree:
                _save_again(case, target, there, output)
        except Exception as error:
            row.failure = _brief(error)
        row.seconds = time.monotonic() - start
        yield row


def _train_source(case, home, saved):
    """Trains on without a stop; the losses before and after saving.

    DeepSpeed 0.19.6 with ZeRO-3 leaves padding uninitialised, and was seen to go on with NaN after
    full tensors were looked at. Such a run is no measure for another: it is made again, and said.
    """
    for _ in range(3):
        losses = _train(case, case.source, home, "source",
                        ["--steps", str(STEPS), "--more", str(STEPS), "--save", saved])
        if all(map(math.isfinite, losses)):
            return losses
        print(f"{case.name}: DeepSpeed's own run, not resumed from anything, has losses {losses}; trained again",
              flush=True)
        shutil.rmtree(home)
        os.makedirs(home)
    raise Mismatch(f"three runs that never stopped have losses that are not finite, such as {losses}")


def _converted(saved, universal):
    """What DeepSpeed's own converter makes of the tag that `latest` names."""
    tag = open(os.path.join(saved, "latest")).read().strip()
    os.makedirs(universal)
    with open(f"{universal}.log", "w") as log:
        code = subprocess.run(
            [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal",
             "--input_folder", os.path.join(saved, tag),
             "--output_folder", os.path.join(universal, f"{tag}_universal"),
             "--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"],
            stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        raise Mismatch(f"ds_to_universal exited with {code}, see {universal}.log")
    return universal


def _opened(reshard, saved, output):
    """The open training state of the checkpoint, whose files then say nothing of DeepSpeed's."""
    with open(f"{output}.log", "w") as log:
        code = subprocess.run([*reshard, "export", f"--input={saved}", f"--output={output}", "--optimizer"],
                              stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        raise Mismatch(f"reshard export exited with {code}, see {output}.log")
    return output


def _resume(case, target, there, output, losses, snapshot, row):
    arguments = ["--start", str(STEPS), "--steps", str(STEPS), "--more", "0",
                 "--load", output, *shlex.split(case.resume)]
    if case.stock_error:
        try:
            _train(case, target, there, "resume", arguments)
        except ranks.RanksFailed as error:
            if case.stock_error not in str(error):
                raise
            row.note = f"stock DeepSpeed cannot resume this at any size: {case.stock_error}"
            return
        raise Mismatch(f"stock DeepSpeed was expected to raise {case.stock_error!r}")
    resumed = _train(case, target, there, "resume", arguments, case.resume_degree)
    if not case.resume_degree:
        row.states = _compare(snapshot, _snapshot(there, "loaded"))
    expected = losses[STEPS:2 * STEPS]
    if len(resumed) != STEPS or len(expected) != STEPS:
        raise Mismatch(f"losses {resumed} where {expected} were expected")
    row.loss = max(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(resumed, expected))
    allowed = TOLERANCES[case.dtype]
    if not row.loss <= allowed:
        raise Mismatch(f"losses {resumed} where the run that never stopped has {expected}: "
                       f"relative difference {row.loss:.1e}, allowed {allowed:.0e}")


def _save_again(case, size, there, output):
    """Loads the output, saves at once, and compares the files with those that were loaded."""
    again = os.path.join(there, "again")
    _train(case, size, there, "again", ["--start", str(STEPS), "--steps", "0", "--more", "0",
                                        "--load", output, "--save", again, *shlex.split(case.resume)],
           case.resume_degree)
    found = [text for place, text in compare.differences(output, again)
             if not place.startswith(MANIFEST, place.find("/") + 1)
             and not (case.resume_degree and any(word in place for word in OF_ONE_DEGREE))]
    if found:
        raise Mismatch(f"{len(found)} differences from what DeepSpeed writes itself: {found[:8]}")


def _train(case, size, directory, name, arguments, degree=None):
    """Runs the case's script at `size` data-parallel ranks and returns its losses."""
    world = size * (degree or case.degree)
    own = os.path.join(HERE, case.script)
    script = own if os.path.exists(own) else os.path.join(CORPUS, case.script)
    argv = [*shlex.split(case.arguments), "--world", str(world), *arguments]
    function, namespace = entry(script, argv)
    return ranks.run(function, world, namespace, os.path.join(directory, f"{name}.log"),
                     before=lambda: observe.observe(case, directory))


def entry(script, argv):
    """The function that a script would start on every rank, and its parsed arguments."""
    started = []
    spawn, torch.multiprocessing.spawn = (
        torch.multiprocessing.spawn, lambda function, args, nprocs: started.append((function, args)))
    argv, sys.argv = sys.argv, [script, *argv]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        torch.multiprocessing.spawn, sys.argv = spawn, argv
    ((function, (_, namespace)),) = started
    return function, namespace


def _reshard(reshard, case, source, output, target):
    command = [*reshard, f"--input={source}", f"--output={output}",
               f"--targetWorldSize={target}", *case.reshard]
    with open(f"{output}.reshard.log", "w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        with open(log.name, errors="replace") as printed:
            end = printed.read().strip()[-500:]
        raise Mismatch(f"reshard exited with {code}: {end}")


def _check_files(source, output):
    """Every archive of the output passes its CRCs and opens in PyTorch; `latest` and whatever lies
    beside the tag is that of the source."""
    universal = os.path.exists(os.path.join(output, "latest_universal"))
    if os.path.exists(os.path.join(source, "latest")):
        latest = open(os.path.join(source, "latest")).read()
        if universal:
            latest += "_universal"
        found = open(os.path.join(output, "latest_universal" if universal else "latest")).read()
        if found != latest:
            raise Mismatch(f"latest says {found!r}, the source's {latest!r}")
    elif os.path.exists(os.path.join(source, "latest_universal")):
        latest = open(os.path.join(source, "latest_universal")).read().removesuffix("_universal")
        universal = True
        if open(os.path.join(output, "latest")).read() != latest:
            raise Mismatch("latest does not name the tag that was converted")
    elif os.path.exists(os.path.join(source, "optimizer.json")):
        with open(os.path.join(source, "optimizer.json")) as state:
            latest = json.load(state)["deepspeed"]["tag"]
        if open(os.path.join(output, "latest")).read() != latest:
            raise Mismatch("latest does not name the tag that was exported")
        source = output  # nothing of what lies in an export is carried over
    else:
        latest = ""  # shards that a user saved, without a tag
    archives = sorted(glob.glob(os.path.join(output, latest.strip(), "**", "*.pt"), recursive=True))
    if not archives:
        raise Mismatch(f"no file in {output}/{latest}")
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad:
            raise Mismatch(f"{path}: the CRC of {bad} is wrong")
        torch.load(path, map_location="cpu", weights_only=False)
    for entry in sorted(os.listdir(source)):
        if (not latest and entry.endswith(".pt")) or (universal and entry.startswith("latest")):
            continue  # these are what is resharded
        one, two = os.path.join(source, entry), os.path.join(output, entry)
        if os.path.isfile(one) and (not os.path.isfile(two) or _digest(one) != _digest(two)):
            raise Mismatch(f"{entry} beside the tag is not carried over")


def _snapshot(directory, phase):
    """What all ranks held, joined: tensors by key, and the facts of each model-parallel rank."""
    tensors, facts = {}, {}
    paths = sorted(glob.glob(os.path.join(directory, f"{phase}-*.safetensors")))
    if not paths:
        raise Mismatch(f"no rank wrote what it {phase}")
    for path in paths:
        held = load_file(path)
        for key, value in held.items():
            if not _same(tensors.setdefault(key, value), value):
                raise Mismatch(f"ranks disagree on {key} ({phase})")
        with open(path.replace(".safetensors", ".json")) as text:
            known = json.load(text)
        parallel = min(key.split("|")[0] for key in held)
        if facts.setdefault(parallel, known) != known:
            raise Mismatch(f"ranks disagree: {_first_difference(facts[parallel], known)}")
    return tensors, facts


def _compare(saved, loaded):
    """Raises unless both are equal bit for bit; returns how many tensors that were."""
    if saved[0].keys() != loaded[0].keys():
        raise Mismatch(f"only on one side: {sorted(saved[0].keys() ^ loaded[0].keys())[:5]}")
    wrong = [key for key, value in saved[0].items() if not _same(value, loaded[0][key])]
    if wrong:
        raise Mismatch(f"{len(wrong)} of {len(saved[0])} states differ after load: {wrong[:5]}")
    if saved[1] != loaded[1]:
        raise Mismatch(f"after load: {_first_difference(saved[1], loaded[1])}")
    return len(saved[0])


def _same(one, two):
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, two)]
    return torch.equal(*flat)


def _first_difference(one, two, path=""):
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted({*one, *two}):
            if one.get(key) != two.get(key):
                return _first_difference(one.get(key), two.get(key), f"{path}/{key}")
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, (a, b) in enumerate(zip(one, two)):
            if a != b:
                return _first_difference(a, b, f"{path}/{index}")
    return f"{path[1:]} is {two!r}, was {one!r}"


def _digests(directory):
    return {os.path.relpath(path, directory): _digest(path)
            for path in glob.glob(os.path.join(directory, "**"), recursive=True)
            if os.path.isfile(path)}


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _brief(error):
    text = str(error).strip()
    return " ".join((text if len(text) < 700 else "... " + text[-700:]).split()) or repr(error)


def _line(row):
    loss = "-" if row.loss is None else f"{row.loss:.1e}"
    states = "-" if row.states is None else row.states
    sizes = f"{row.source} -> {row.target}"
    verdict = "FAIL" if row.failure else "ok"
    return (f"{row.case:<38} {sizes:>8}  {loss:>9} {states:>7} {row.seconds:>7.1f}  {verdict}"
            + (f"\n    {row.failure}" if row.failure else "")
            + (f"\n    {row.note}" if row.note else ""))


if __name__ == "__main__":
    sys.exit(main())
