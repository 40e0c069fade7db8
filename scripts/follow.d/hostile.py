"""Hostile timing: writers that save, truncate, replace, delete and backdate checkpoints while they
are followed. Whatever is published has to be what the main job makes of one of the versions that
were saved, whole; and what stands there whole in the end has to be published.

  hostile.py RESHARD CORPUS WORK [SEED [TAGS]]
"""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time

reshard, corpus, work = sys.argv[1:4]
seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
tags = int(sys.argv[5]) if len(sys.argv) > 5 else 6
dice = random.Random(seed)
# Two runs whose files have the same names and other content: every file of the first is one of the
# second as well, so that a tag that is written again is wholly the second one in the end.
VERSIONS = ["z1-bf16", "z2-bf16-clip"]
RANKS = 4
ckpt, out = os.path.join(work, "ckpt"), os.path.join(work, "out")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def content(directory):
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            if name != "reshard-manifest.json":
                path = os.path.join(folder, name)
                found[os.path.relpath(path, directory)] = digest(path)
    return found


def version(number):
    source = os.path.join(corpus, VERSIONS[number], "source")
    with open(os.path.join(source, "latest"), encoding="utf-8") as latest:
        tag = latest.read().strip()
    files = {}
    for name in sorted(os.listdir(os.path.join(source, tag))):
        with open(os.path.join(source, tag, name), "rb") as file:
            files[name] = file.read()
    return files


versions = [version(0), version(1)]


def expected(files):
    directory = os.path.join(work, "main")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(os.path.join(directory, "in", "tag"))
    for name, data in files.items():
        with open(os.path.join(directory, "in", "tag", name), "wb") as file:
            file.write(data)
    subprocess.run(
        [reshard, "--input=" + os.path.join(directory, "in"), "--output=" + os.path.join(directory, "out"),
         "--targetWorldSize=%d" % RANKS, "--tag=tag"], check=True, stdout=subprocess.DEVNULL)
    return content(os.path.join(directory, "out", "tag"))


def pause():
    time.sleep(dice.choice([0, 0, 0.01, 0.1, 0.4]))


def write(tag, files):
    """In any order, in pieces, and some of it again from the beginning."""
    os.makedirs(os.path.join(ckpt, tag), exist_ok=True)
    names = list(files)
    dice.shuffle(names)
    for name in names:
        path = os.path.join(ckpt, tag, name)
        data = files[name]
        for _ in range(dice.choice([1, 1, 2])):
            cut = dice.randrange(len(data) + 1)
            with open(path, "wb") as file:
                file.write(data[:cut])
                file.flush()
                pause()
                file.write(data[cut:])
        if dice.random() < 0.2:  # a clock that jumps
            past = time.time() - dice.choice([3600, -3600])
            os.utime(path, (past, past))
    with open(os.path.join(ckpt, "latest"), "w", encoding="utf-8") as latest:
        latest.write(tag)


wanted = [expected(files) for files in versions]
os.makedirs(ckpt)
follower = subprocess.Popen(
    [reshard, "follow", "--input=" + ckpt, "--output=" + out, "--targetWorldSize=%d" % RANKS,
     "--poll=200ms", "--until=idle:8s"])
final = {}
wrong = []


def check():
    """What looks whole at any moment is; publishing is a rename."""
    for tag in os.listdir(out) if os.path.isdir(out) else []:
        if tag.startswith("step"):
            try:
                found = content(os.path.join(out, tag))
            except FileNotFoundError:
                continue  # replaced at this moment
            if found not in wanted and os.path.isdir(os.path.join(out, tag)):
                if content(os.path.join(out, tag)) not in wanted:
                    wrong.append("%s is none of the versions: %s" % (tag, sorted(found)))


for number in range(1, tags + 1):
    tag = "step%d" % number
    move = dice.choice(["save", "save", "again", "delete", "two", "replace"])
    print("seed %d: %s %s" % (seed, tag, move), flush=True)
    final[tag] = 0
    write(tag, versions[0])
    if move == "again":
        time.sleep(dice.choice([0, 0.5, 2]))
        write(tag, versions[1])
        final[tag] = 1
    elif move == "delete":
        time.sleep(dice.choice([0, 0.3, 1]))
        shutil.rmtree(os.path.join(ckpt, tag))
        del final[tag]
    elif move == "two":
        write(tag + "b", versions[1])
        final[tag + "b"] = 1
    elif move == "replace":  # files in place, one after the other, as a re-used tag
        time.sleep(dice.choice([0, 1]))
        write(tag, versions[0])
    check()
# A mixture of two versions that stands still for a while is refused: that is 3.
assert follower.wait() in (0, 3), "the follower ended with %s" % follower.returncode
check()
for tag, number in final.items():
    if not os.path.isdir(os.path.join(out, tag)):
        wrong.append(tag + " is whole and was not published")
    elif content(os.path.join(out, tag)) != wanted[number]:
        wrong.append(tag + " is not as it was saved last")
for problem in wrong:
    print(problem)
sys.exit(1 if wrong else 0)
