"""Runs a training function on N ranks of this machine.

PyTorch and DeepSpeed take several seconds to import, on every rank. Here they are imported once
and the ranks are forked from that process, which must therefore never train or start a thread
itself.
"""

import json
import logging
import os
import re
import signal
import socket
import time

import torch
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException

TIMEOUT_SECONDS = 300

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)


class RanksFailed(Exception):
    """A rank raised, died or did not finish; the message is the end of what the ranks printed."""


def run(function, world, arguments, log, before=None, environment=None):
    """Calls `before()` and then `function(rank, world, arguments)` on each of `world` ranks, and
    returns the losses that rank 0 printed after the word LOSS. What the ranks print goes to the
    file `log`."""
    arguments.port = _free_port()
    context = mp.start_processes(
        _rank, (function, world, arguments, log, before, environment or {}), world, join=False,
        start_method="fork")
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while not context.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise RanksFailed(f"not finished after {TIMEOUT_SECONDS} s, see {log}")
    except ProcessException as error:
        raise RanksFailed(str(error).strip()) from None
    finally:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
    with open(log, encoding="utf-8", errors="replace") as printed:
        losses = re.findall(r"^LOSS (.*)$", printed.read(), re.MULTILINE)
    return json.loads(losses[-1]) if losses else []


def _rank(rank, function, world, arguments, log, before, environment):
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.environ.update(environment)
    os.environ["MASTER_PORT"] = str(arguments.port)
    torch.set_num_threads(1)
    if before:
        before()
    function(rank, world, arguments)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
