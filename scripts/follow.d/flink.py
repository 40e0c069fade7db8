"""A run is followed on a Flink cluster with checkpointing on: a TaskManager is killed while a
checkpoint is under way and replaced; both die when one has just been published, which the job itself
may not know yet; then the job is cancelled, its client killed, and both are
started again. What is published in the end has to be what the main job makes, each once.

  flink.py RESHARD PORT WORK SMALL LARGE

SMALL and LARGE are directories with a checkpoint each; LARGE is big enough to be met in its midst.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import threading
import time

reshard, port, work, small, large = sys.argv[1:6]
here = os.path.dirname(os.path.abspath(__file__))
SIZES = "3,6"
ckpt, out = os.path.join(work, "ckpt"), os.path.join(work, "out")
events = []
client = None


def follow():
    """Starts it; its events come in the list of that name, each with the number of its client."""
    global client
    client = subprocess.Popen(
        [reshard, "follow", "--input=" + ckpt, "--output=" + out, "--targetWorldSize=" + SIZES,
         "--poll=500ms", "--until=idle:12s", "--json", "--partBytes=1048576",
         "--runner=FlinkRunner", "--flinkMaster=localhost:" + port, "--checkpointingInterval=1000"],
        stdout=subprocess.PIPE, text=True)

    def read(lines):
        for line in lines:
            print(line.rstrip()[:300], flush=True)
            try:
                events.append(json.loads(line))
            except ValueError:
                pass

    threading.Thread(target=read, args=(client.stdout,), daemon=True).start()


def seen(kind, checkpoint):
    return sum(e["event"] == kind and e.get("checkpoint") == checkpoint for e in events)


def wait(what, until, seconds=300):
    end = time.monotonic() + seconds
    while not until():
        if client.poll() is not None:
            sys.exit("the follower ended with %s before %s" % (client.returncode, what))
        if time.monotonic() > end:
            sys.exit("not within %d s: %s" % (seconds, what))
        time.sleep(0.05)


def save(source, tag):
    """As a run does, but for the order of files."""
    with open(os.path.join(source, "latest"), encoding="utf-8") as latest:
        name = latest.read().strip()
    os.makedirs(ckpt, exist_ok=True)
    shutil.copytree(os.path.join(source, name), os.path.join(ckpt, tag), copy_function=shutil.copy)


def written(tag):
    """Bytes that are written and not published."""
    total = 0
    for folder, _, names in os.walk(out):
        if ".reshard-%s.unpublished" % tag in folder:
            for name in names:
                try:
                    total += os.stat(os.path.join(folder, name)).st_blocks * 512
                except FileNotFoundError:
                    pass
    return total


def in_its_midst(tag):
    """Saves LARGE as tag-1, tag-2, ... until one is met with some bytes written; which one."""
    for number in range(1, 6):
        name = "%s-%d" % (tag, number)
        save(large, name)
        wait(name + " has begun", lambda: seen("begun", name))
        while not seen("published", name):
            if written(name) > 4 << 20:
                return name
            time.sleep(0.02)
    sys.exit("no checkpoint was met in its midst; LARGE is too small")


def is_published(tag):
    return any(os.path.isdir(os.path.join(out, "world-" + n, tag)) for n in SIZES.split(","))


def cluster(*command):
    subprocess.run([os.path.join(here, "..", "flink-cluster"), *command], check=True)


def renew_taskmanagers():
    for command in "kill", "taskmanager":
        for number in "1", "2":
            cluster(command, number)
    while ask("overview", "taskmanagers") != ["2"]:
        time.sleep(0.2)


def manifests(tag):
    """Which file each manifest is; None where there is none."""
    found = []
    for ranks in SIZES.split(","):
        try:
            stat = os.stat(os.path.join(out, "world-" + ranks, tag, "reshard-manifest.json"))
            found.append((stat.st_ino, stat.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return found


def ask(*question):
    return subprocess.run(
        [sys.executable, os.path.join(here, "..", "flink.d", "ask.py"), port, *question],
        check=True, capture_output=True, text=True).stdout.split()


def same(one, other):
    found = filecmp.dircmp(one, other, ignore=["reshard-manifest.json"])
    whole = not (found.left_only or found.right_only or found.funny_files)
    equal = not filecmp.cmpfiles(one, other, found.common_files, shallow=False)[1]
    return whole and equal and all(
        same(os.path.join(one, sub), os.path.join(other, sub)) for sub in found.common_dirs)


follow()
save(small, "small-1")
wait("small-1 is published", lambda: seen("published", "small-1"))

killed = in_its_midst("killed")
cluster("kill", "1")
assert not is_published(killed) or all(
    os.path.isdir(os.path.join(out, "world-" + n, killed)) for n in SIZES.split(",")), killed
cluster("taskmanager", "1")
wait(killed + " is published", lambda: seen("published", killed))
assert int(ask("attempts")[0]) > 1, "the job did not go on from an earlier attempt"

# What the job remembers of the moment before is older than the output, which it has to recognise.
save(small, "published")
wait("the output of it stands there", lambda: all(manifests("published")))
renew_taskmanagers()
made = manifests("published")
wait("it is said to be published", lambda: seen("published", "published"))
assert int(ask("attempts")[0]) > 2, "the job did not go on from an earlier attempt"
save(small, "after")
wait("after is published", lambda: seen("published", "after"))
assert manifests("published") == made, "what was published was made again"

cancelled = in_its_midst("cancelled")
ask("cancel")
client.kill()
client.wait()
assert not seen("published", cancelled)
first = len(events)
# The TaskManager lives that said last that the output is the old job's.
renew_taskmanagers()
follow()
wait(cancelled + " is published", lambda: seen("published", cancelled))
save(small, "small-2")
wait("small-2 is published", lambda: seen("published", "small-2"))
try:
    code = client.wait(timeout=180)
except subprocess.TimeoutExpired:
    client.kill()
    sys.exit("--until did not end the job")
assert code == 0, "the follower ended with %s" % code
state = ask("job")[1]
assert state in ("FINISHED", "CANCELED", "CANCELLING"), state

tags = sorted(os.listdir(ckpt))
for tag in tags:
    assert seen("published", tag) == 1, "%s was published %d times" % (tag, seen("published", tag))
    for ranks in SIZES.split(","):
        direct = os.path.join(work, "direct")
        shutil.rmtree(direct, ignore_errors=True)
        subprocess.run(
            [reshard, "--input=" + ckpt, "--output=" + direct, "--tag=" + tag,
             "--targetWorldSize=" + ranks], check=True, stdout=subprocess.DEVNULL)
        assert same(os.path.join(direct, tag), os.path.join(out, "world-" + ranks, tag)), (tag, ranks)
for ranks in SIZES.split(","):
    with open(os.path.join(out, "world-" + ranks, "latest"), encoding="utf-8") as latest:
        assert latest.read() == "small-2"
left = [name for _, folders, files in os.walk(out) for name in folders + files
        if name.startswith(".reshard-")]
assert not left, left
print("followed %d checkpoints: %s" % (len(tags), ", ".join(tags)))
