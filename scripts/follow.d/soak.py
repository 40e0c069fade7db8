"""Follows 300 small checkpoints that come at one a second, and one of 2 GiB in between. Memory after
a garbage collection, open files and threads have to stay as they are, and latency steady.

  soak.py RESHARD WORK SMALL LARGE [COUNT]

SMALL and LARGE are directories with a checkpoint each.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time

reshard, work, small, large = sys.argv[1:5]
COUNT = int(sys.argv[5]) if len(sys.argv) > 5 else 300
EVERY = max(1, COUNT // 60)  # checkpoints between two samples
KEPT = 100  # tags that stand in the source: runs delete what is older
ckpt, out = os.path.join(work, "ckpt"), os.path.join(work, "out")
published, samples, problems = [], [], []


def save(source, tag):
    with open(os.path.join(source, "latest"), encoding="utf-8") as latest:
        name = latest.read().strip()
    shutil.copytree(os.path.join(source, name), os.path.join(ckpt, tag), copy_function=shutil.copy)


def java(pid):
    """The JVM, which the launcher may have started."""
    with open("/proc/%d/comm" % pid, encoding="utf-8") as comm:
        if comm.read().strip() == "java":
            return pid
    with open("/proc/%d/task/%d/children" % (pid, pid), encoding="utf-8") as children:
        for child in children.read().split():
            found = java(int(child))
            if found:
                return found
    return None


def sample():
    pid = java(follower.pid)
    jcmd = lambda what: subprocess.run(
        ["jcmd", str(pid), what], check=True, capture_output=True, text=True).stdout
    jcmd("GC.run")
    # The instances that live, in bytes: the last line is the total.
    heap = int(jcmd("GC.class_histogram").strip().splitlines()[-1].split()[2])
    handles, threads = (len(os.listdir("/proc/%d/%s" % (pid, what))) for what in ("fd", "task"))
    samples.append((len(published), heap, handles, threads))


def hear(lines):
    for line in lines:
        if not line.startswith("{"):  # what the JVM says
            print(line.rstrip())
            continue
        event = json.loads(line)
        if event["event"] == "published":
            published.append((event["checkpoint"], event["latencySeconds"]))
        elif event["event"] not in ("begun", "over", "end"):
            problems.append(line.strip())
        elif event["event"] == "end":
            print(line.strip())


os.makedirs(ckpt)
follower = subprocess.Popen(
    [reshard, "follow", "--input=" + ckpt, "--output=" + out, "--targetWorldSize=3", "--poll=500ms",
     "--until=idle:30s", "--json"], stdout=subprocess.PIPE, text=True)
threading.Thread(target=hear, args=(follower.stdout,), daemon=True).start()
begin = time.monotonic()
for number in range(1, COUNT + 1):
    save(small, "step%d" % number)
    if number == COUNT // 2:
        save(large, "large")
    if number > KEPT:
        shutil.rmtree(os.path.join(ckpt, "step%d" % (number - KEPT)))
    if number % EVERY == 0:
        sample()
    time.sleep(max(0, begin + number - time.monotonic()))
    # A machine that has other things to do is given time, so that nothing is deleted unread.
    while number - len(published) > KEPT // 2 and follower.poll() is None:
        time.sleep(0.2)
code = follower.wait()
assert code == 0 and not problems, "the follower ended with %s: %s" % (code, problems[:3])
assert len(published) == COUNT + 1, "%d of %d were published" % (len(published), COUNT + 1)


def third(which, of):
    return of[len(of) * which // 3 : len(of) * (which + 1) // 3]


seconds = [latency for tag, latency in published if tag != "large"]
large_seconds = dict(published)["large"]
print("thirds               first    second     last")
rows = {}
for name, values, digits in (
        ("latency p50, s", seconds, 2), ("heap after GC, MiB", [s[1] / 2**20 for s in samples], 1),
        ("open files", [s[2] for s in samples], 0), ("threads", [s[3] for s in samples], 0)):
    rows[name] = [statistics.median(third(which, values)) for which in range(3)]
    print("%-18s %s" % (name, " ".join("%9.*f" % (digits, value) for value in rows[name])))
print("the large one: %.1f s from whole to published" % large_seconds)
# A pool may have a thread or file more at the moment of a sample; a hundred checkpoints that leave
# one each would be seen.
for name, factor, more in (("heap after GC, MiB", 1.1, 0), ("open files", 1, 4), ("threads", 1, 4)):
    _, second, last = rows[name]
    assert last <= second * factor + more, "%s grew: %s" % (name, rows[name])
print("%.1f s for each on average" % ((time.monotonic() - begin - 30) / COUNT))
first, _, last = rows["latency p50, s"]
assert last <= 1.5 * first + 0.5, "latency grew: %s" % rows["latency p50, s"]
