"""Runs the recipes of docs/launch.md, and the jobs of docs/follow.md, with the very text that stands there.

python recipes.py BIN [RECIPE...]: BIN is where `reshard` is. Ends with "N passed, M failed".

A block of Python goes into a training script of this directory where that says `# RECIPE: HEADING`;
a block for the shell is given to bash. What cannot be had here is stood in for, and only that: `ssh`
(DeepSpeed's launcher asks the one host of its hostfile), `sbatch`, `srun` and `scontrol` of Slurm, and
`kubectl` with the container runtime, in the place of which `sh` gets the commands with `/data` replaced.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "docs" / "launch.md"
FOLLOWED = HERE.parent.parent / "docs" / "follow.md"


def recipe(heading, document=DOCUMENT):
    """The first block of code under a heading."""
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", document.read_text(), re.M | re.S)
    if not section:
        raise SystemExit(f"{document} has no heading '{heading}'")
    return re.search(r"^```\w*\n(.*?)^```$", section[1], re.M | re.S)[1]


def script(name, directory):
    """A training script of this directory, with the text of the document in it, as train.py."""
    text = (HERE / name).read_text()
    for heading in re.findall(r"^# RECIPE: (.*)$", text, re.M):
        # Where the document has `...` the training is.
        block = recipe(heading).replace("\n...\n", "\ntrain()\n")
        text = text.replace(f"# RECIPE: {heading}\n", block)
    (directory / "train.py").write_text(text)


STAND_INS = {
    # Of one host, DeepSpeed's launcher asks for its name and address, and starts the ranks itself.
    "ssh": 'while [ "$1" != localhost ]; do shift; done; shift; exec "$@"',
    "scontrol": 'if [ "$1" = requeue ]; then echo "$2" >requeued; else echo 127.0.0.1; fi',
    "sbatch": 'exec bash "$@"',
    "kubectl": 'exec python "$STAND_INS/kubectl.py" "$@"',
    # So many tasks, of which the first that fails ends the step.
    "srun": """tasks=
trap 'kill $tasks' TERM
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  tasks="$tasks $!"
done
for task in $tasks; do wait $task || exit; done""",
}


class Failed(Exception):
    pass


class Runs:
    def __init__(self, place, programs):
        self.place = place
        self.bin = place / "bin"
        self.bin.mkdir()
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(self.bin), programs, os.path.dirname(sys.executable), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
            # PyTorch waits half a minute for nodes that may still come.
            "PET_RDZV_CONF": "last_call_timeout=3",
            "HF_HUB_OFFLINE": "1",
            "STAND_INS": str(HERE),
        }

    def stand_in(self, *names):
        for name in names:
            (self.bin / name).write_text(f"#!/bin/bash\n{STAND_INS[name]}\n")
            (self.bin / name).chmod(0o755)

    def shell(self, directory, text, **more):
        """Runs what the document says to type."""
        self.wait(self.start(directory, text, **more))

    def start(self, directory, text, **more):
        log = open(directory / "log", "a")
        return subprocess.Popen(
            ["bash", "-c", text], cwd=directory, env={**self.environment, **more}, stdout=log,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def wait(self, process, seconds=240):
        try:
            if process.wait(seconds) != 0:
                raise Failed(f"exit code {process.returncode}")
        except subprocess.TimeoutExpired:
            stop(process)
            raise Failed(f"not done after {seconds} s") from None

    def torchrun(self, directory, ranks, **more):
        self.shell(directory, f"torchrun --standalone --nproc-per-node={ranks} train.py", **more)


def stop(process):
    """Ends it and all that it started: workers of torchrun have sessions of their own."""
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    process.kill()
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            pass


def said(directory):
    """Lines of (loaded or trained, ranks, from where, step, weights), since the last look."""
    file = directory / "said"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def expect(directory, *wanted):
    """Checks what was said; returns the weights that each line had. None stands for anything."""
    lines = said(directory)
    for line, want in zip(lines, wanted):
        if any(w is not None and str(w) != found for w, found in zip(want, line)):
            raise Failed(f"expected {want}, found {line}")
    if len(lines) != len(wanted):
        raise Failed(f"expected {len(wanted)} lines, found {lines}")
    return [line[-1] for line in lines]


def saved(runs):
    """A checkpoint that the recipe from Python left on 2 ranks at step 3, with its weights."""
    directory = runs.place / "saved"
    if not directory.exists():
        directory.mkdir()
        script("script.py", directory)
        runs.torchrun(directory, 2, STEPS="3")
        _, runs.weights = expect(
            directory, ("loaded", 2, "None", 0), ("trained", 2, "None", 3))
    return directory / "ckpt"


def comes_back(runs, directory, command, path="ckpt-world-3", **more):
    """On 3 ranks, with the same weights, and a step further."""
    shutil.copytree(saved(runs), directory / "ckpt")
    script("train.py", directory)
    runs.shell(directory, command, STEPS="1", **more)
    loaded, trained = expect(
        directory, ("loaded", 3, path, 3, runs.weights), ("trained", 3, path, 4))
    if loaded == trained or (directory / "ckpt" / "latest").read_text() != "global_step4":
        raise Failed("did not train, or saved elsewhere")


def from_python(runs, directory):
    shutil.copytree(saved(runs), directory / "ckpt")
    script("script.py", directory)
    runs.torchrun(directory, 3, STEPS="2")
    _, weights = expect(
        directory, ("loaded", 3, "ckpt-world-3", 3, runs.weights), ("trained", 3, "ckpt-world-3", 5))
    runs.torchrun(directory, 1)
    expect(directory, ("loaded", 1, "ckpt-world-1", 5, weights), ("trained", 1, "ckpt-world-1", 5, weights))


def torchrun_elastic(runs, directory):
    """Two nodes of 2 and 1 ranks; one dies after a save, and the other goes on alone."""
    script("script.py", directory)
    text = recipe("torchrun, elastic")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    more = {"HEAD": "127.0.0.1", "STEPS": "3", "UNTIL_ONE_GOES": "1"}
    text = text.replace("29400", port)
    nodes = [runs.start(directory, text, GPUS_PER_NODE="2", **more)]
    try:
        time.sleep(1)
        nodes.append(runs.start(directory, text, GPUS_PER_NODE="1", **more))
        patience = time.monotonic() + 120
        while not (directory / "saved").exists():
            if time.monotonic() > patience or nodes[0].poll() is not None:
                raise Failed("the first round did not get to its save")
            time.sleep(0.2)
        _, weights = expect(directory, ("loaded", 3, "None", 0), ("trained", 3, "None", 3))
        stop(nodes[1])
        runs.wait(nodes[0])
        expect(directory, ("loaded", 2, "ckpt-world-2", 3, weights), ("trained", 2, "ckpt-world-2", 6))
    finally:
        for node in nodes:
            stop(node)
            node.wait()


def deepspeed_launcher(runs, directory):
    runs.stand_in("ssh")
    (directory / "hosts").write_text("localhost slots=3\n")
    comes_back(runs, directory, recipe("DeepSpeed's launcher"))


def slurm(runs, directory):
    runs.stand_in("srun", "scontrol")
    comes_back(runs, directory, recipe("Slurm, requeued"), SLURM_NTASKS="3", SLURM_JOB_NODELIST="n1")


def data_in(runs, directory):
    """Where the volume of the containers is."""
    data = runs.place / "data"
    data.unlink(missing_ok=True)
    data.symlink_to(directory)
    return data


def kubernetes(runs, directory):
    runs.stand_in("kubectl")
    data = data_in(runs, directory)
    (directory / "train.yaml").write_text(recipe("Kubernetes"))
    comes_back(runs, directory, "kubectl apply -f train.yaml", DATA=str(data))
    if (directory / "load-from").read_text() != f"{data}/ckpt-world-3\n":
        raise Failed("the init container left another answer")


def made(directory, ranks):
    """When the follower made what the first job saved for a size; None before it has."""
    manifest = directory / "ready" / f"world-{ranks}" / "global_step4" / "reshard-manifest.json"
    return manifest.stat().st_mtime_ns if manifest.exists() else None


def followed(runs, directory, command, end, smaller, **more):
    """A job on 3 ranks whose follower makes what it saves; then one on 2, which loads that."""
    shutil.copytree(saved(runs), directory / "ckpt")
    script("train.py", directory)
    job = runs.start(directory, command, STEPS="1", LINGER="ended", **more)
    try:
        patience = time.monotonic() + 240
        while not all(made(directory, ranks) for ranks in (2, 3, 4)):
            if time.monotonic() > patience or job.poll() is not None:
                raise Failed("the follower did not make what was saved")
            time.sleep(0.2)
        end(job)
        runs.wait(job)
    finally:
        stop(job)
    loaded, trained = expect(
        directory, ("loaded", 3, "ready/world-3", 3, runs.weights), ("trained", 3, "ready/world-3", 4))
    if list((directory / "ready").glob("**/.reshard-*")):
        raise Failed("the follower did not end")
    before = made(directory, 2)
    runs.shell(directory, command, STEPS="1", **{**more, **smaller()})
    expect(directory, ("loaded", 2, "ready/world-2", 4, trained), ("trained", 2, "ready/world-2", 5))
    if made(directory, 2) != before:
        raise Failed("what the follower made was made again")


def follow_slurm(runs, directory):
    """Ended as by --signal=B:TERM: the batch shell alone is told."""
    runs.stand_in("sbatch", "srun", "scontrol")
    (directory / "job.sh").write_text(recipe("A Slurm job", FOLLOWED))
    followed(runs, directory, "exec sbatch job.sh", lambda job: job.terminate(), lambda: {"SLURM_NTASKS": "2"},
             SLURM_NTASKS="3", SLURM_JOB_NODELIST="n[1-3]", SLURM_JOB_ID="17")
    if (directory / "requeued").read_text() != "17\n":
        raise Failed("the job was not put into the queue again")


def follow_kubernetes(runs, directory):
    runs.stand_in("kubectl")
    job = directory / "train.yaml"
    job.write_text(recipe("A Kubernetes job", FOLLOWED))

    def smaller():
        runs.shell(directory, "kubectl delete job train")
        job.write_text(job.read_text().replace('value: "3"', 'value: "2"'))
        return {}

    followed(runs, directory, "kubectl apply -f train.yaml", lambda _: (directory / "ended").touch(), smaller,
             DATA=str(data_in(runs, directory)))


def library(name, path):
    """Trains on 2 ranks, comes back on 3, by a library that saves in its own way."""

    def run(runs, directory, start=None):
        script(name, directory)
        (start or runs.torchrun)(directory, 2, STEPS="3")
        _, weights = expect(directory, ("loaded", 2, "None", 0), ("trained", 2, "None", 3))
        (start or runs.torchrun)(directory, 3, STEPS="4")
        loaded, trained = expect(
            directory, ("loaded", 3, path, 3, weights), ("trained", 3, path, 4))
        if loaded == trained:
            raise Failed("did not train")

    return run


def lightning(runs, directory):
    library("lightning.py", "checkpoints/last.ckpt-world-3")(
        runs, directory, lambda where, ranks, **more: runs.shell(where, "python train.py", RANKS=str(ranks), **more))


RECIPES = {
    "python": from_python,
    "torchrun": torchrun_elastic,
    "deepspeed": deepspeed_launcher,
    "accelerate": library("accelerated.py", "state-world-3"),
    "trainer": library("trainer.py", "out-world-3/checkpoint-3"),
    "lightning": lightning,
    "slurm": slurm,
    "kubernetes": kubernetes,
    "follow-slurm": follow_slurm,
    "follow-kubernetes": follow_kubernetes,
}


def main(programs, *names):
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="reshard-launch-") as place:
        runs = Runs(Path(place), programs)
        for name in names or RECIPES:
            directory = Path(place) / f"by {name}"
            directory.mkdir()
            begin = time.monotonic()
            try:
                RECIPES[name](runs, directory)
                passed += 1
                print(f"{name} {time.monotonic() - begin:.0f} s", flush=True)
            except Failed as failure:
                failed += 1
                print(f"FAILED {name}: {failure}")
                for log in (directory / "log", Path(place) / "saved" / "log"):
                    if log.exists():
                        print("\n".join(f"    {line}" for line in log.read_text().splitlines()[-30:]), flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
