"""Asks a Flink cluster through the REST API behind its web page.

ask.py PORT overview FIELD   a number of the cluster, such as taskmanagers; nothing while none answers
ask.py PORT job              id and state of the newest job
ask.py PORT attempts         how many attempts the newest job took
ask.py PORT tasks            what each task of the newest job read and sent, by step
ask.py PORT cancel           cancels the newest job
"""

import base64
import json
import sys
import urllib.request

PORT, QUESTION = sys.argv[1:3]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(path, method="GET"):
    request = urllib.request.Request(f"http://localhost:{PORT}{path}", method=method)
    with DIRECT.open(request, timeout=30) as answer:
        return json.load(answer)


def newest():
    jobs = ask("/jobs/overview")["jobs"]
    return max(jobs, key=lambda job: job["start-time"]) if jobs else None


def counter(task, name):
    """A counter of ours: Beam keeps them in one accumulator, each as a varint in base 64."""
    total = 0
    for accumulator in task["user-accumulators"]:
        if accumulator["name"] == "__metricscontainers":
            for metric in json.loads(accumulator["value"])["metrics"].get("attempted", []):
                if metric["labels"]["NAME"] == name:
                    payload = base64.b64decode(metric["payload"])
                    total += sum((byte & 127) << (7 * at) for at, byte in enumerate(payload))
    return total


def attempts(job):
    tries = 1 + max(
        task["attempt"]
        for step in ask(f"/jobs/{job}")["vertices"]
        for task in ask(f"/jobs/{job}/vertices/{step['id']}")["subtasks"]
    )
    print(tries)


def tasks(job):
    print("records read by each task | records sent | MiB written")
    for step in ask(f"/jobs/{job}")["vertices"]:
        detail = ask(f"/jobs/{job}/vertices/{step['id']}")["subtasks"]
        read = [task["metrics"]["read-records"] for task in detail]
        sent = [task["metrics"]["write-records"] for task in detail]
        found = ask(f"/jobs/{job}/vertices/{step['id']}/subtasks/accumulators")["subtasks"]
        written = [counter(task, "bytesWritten") for task in found]
        line = f"{step['name'][:150]}: {read} | {sent}"
        if any(written):
            line += f" | {[round(bytes_ / 2**20, 1) for bytes_ in written]}"
        print(line)


if QUESTION == "overview":
    try:
        print(ask("/overview")[sys.argv[3]])
    except OSError:
        pass
else:
    job = newest()
    if QUESTION == "job":
        print(job["jid"], job["state"]) if job else print("none NONE")
    elif QUESTION == "attempts":
        attempts(job["jid"])
    elif QUESTION == "tasks":
        tasks(job["jid"])
    elif QUESTION == "cancel":
        ask(f"/jobs/{job['jid']}?mode=cancel", "PATCH")
