"""The calls; each runs the command once."""

import collections
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Deque, Dict, List, Optional, TextIO, Tuple, Union

from . import _errors
from ._program import archive_later, command, environment

PathLike = Union[str, "os.PathLike[str]"]

#: ``verify`` found a difference; an exit code of its own.
_DIFFER = 5


@dataclass(frozen=True)
class Verdict:
    """What ``verify`` found.

    :param equal: whether both hold the same training state
    :param report: what ``reshard verify --json`` prints: a row for every state of every parameter
    """

    equal: bool
    report: Dict[str, Any]

    def __bool__(self) -> bool:
        return self.equal


def ensure(
    input: PathLike,
    world_size: Optional[int] = None,
    *,
    gpus: Optional[int] = None,
    output: Optional[PathLike] = None,
    tag: Optional[str] = None,
    keep: Optional[int] = None,
    progress: bool = True,
    **options: Any,
) -> str:
    """The directory to load from at this size; made now if it is not there.

    Every rank of every node may call this at once: one works, the others wait, and all get the same
    answer.

    :param input: what ``save_checkpoint`` was given, or a directory with ``checkpoint-N`` in it
    :param world_size: data-parallel ranks that will load
    :param gpus: all GPUs that will load, in the place of ``world_size``: it is divided by the tensor-
        and pipeline-parallel degrees that the checkpoint says
    :param output: where to make it; by default ``INPUT-world-M`` beside the input
    :param keep: how many checkpoints to keep in the output; by default all
    :raises Refused: if the checkpoint is refused
    """
    arguments = _arguments(
        {"input": input, "targetWorldSize": world_size, "gpus": gpus, "output": output},
        {"tag": tag, "keep": keep, **options},
    )
    return _run(["ensure", *arguments], progress).rstrip("\n")


def reshard(
    input: PathLike,
    output: PathLike,
    world_size: Optional[int] = None,
    *,
    gpus: Optional[int] = None,
    tag: Optional[str] = None,
    stage: Optional[int] = None,
    overwrite: bool = False,
    trust_masters: bool = False,
    progress: bool = True,
    **options: Any,
) -> Dict[str, Any]:
    """Writes the files that DeepSpeed would have saved at another size.

    :param input: what ``save_checkpoint`` was given
    :param output: the directory that gets the tag and ``latest``
    :param stage: the ZeRO stage of the run that will load; by default that of the input
    :param options: any other option of the command, such as ``shards="optimizer.*.pt"``
    :returns: what was done and proven: what ``reshard --json`` prints
    :raises Refused: if the checkpoint is refused
    :raises OutputError: if the output cannot be written
    """
    arguments = _arguments(
        {"input": input, "output": output, "targetWorldSize": world_size, "gpus": gpus},
        {
            "tag": tag,
            "targetStage": stage,
            "overwrite": overwrite,
            "trustMasters": trust_masters,
            **options,
        },
    )
    return _json(_run([*arguments, "--json"], progress))


def export(
    input: PathLike,
    output: PathLike,
    *,
    tag: Optional[str] = None,
    dtype: Optional[str] = None,
    overwrite: bool = False,
    trust_masters: bool = False,
    progress: bool = True,
    **options: Any,
) -> Dict[str, Any]:
    """Writes the weights of a checkpoint as safetensors that ``from_pretrained`` loads.

    :param input: what ``save_checkpoint`` was given
    :param output: the directory that gets the weights
    :param dtype: ``bf16``, ``fp16``, ``fp32``, or by default the type that the run computed with
    :returns: what was done and proven: what ``reshard export --json`` prints
    :raises Refused: if the checkpoint is refused
    :raises OutputError: if the output cannot be written
    """
    arguments = _arguments(
        {"input": input, "output": output},
        {
            "tag": tag,
            "dtype": dtype,
            "overwrite": overwrite,
            "trustMasters": trust_masters,
            **options,
        },
    )
    return _json(_run(["export", *arguments, "--json"], progress))


def inspect(input: PathLike, *, tag: Optional[str] = None, **options: Any) -> Dict[str, Any]:
    """What a checkpoint is, from its metadata: what ``reshard inspect --json`` prints."""
    arguments = _arguments({"input": input}, {"tag": tag, **options})
    return _json(_run(["inspect", *arguments, "--json"], False))


def doctor(
    input: PathLike, *, tag: Optional[str] = None, progress: bool = True, **options: Any
) -> str:
    """Reads a whole checkpoint with all proofs and writes nothing.

    :returns: what was proven, as text
    :raises Refused: if it is not whole
    """
    return _run(["doctor", *_arguments({"input": input}, {"tag": tag, **options})], progress)


def verify(
    a: PathLike,
    b: PathLike,
    *,
    tag_a: Optional[str] = None,
    tag_b: Optional[str] = None,
    progress: bool = True,
    **options: Any,
) -> Verdict:
    """Whether two checkpoints hold the same training state, whatever their number of ranks."""
    arguments = _arguments(
        {"input": a, "output": b}, {"tag": tag_a, "outputTag": tag_b, **options}
    )
    code, out, err = _execute(["verify", *arguments, "--json"], progress)
    if code not in (0, _DIFFER):
        raise _errors.of(code, err)
    return Verdict(code == 0, _json(out))


def _arguments(first: Dict[str, Any], more: Dict[str, Any]) -> List[str]:
    arguments = []
    for name, value in {**first, **more}.items():
        if value is None or value is False:
            continue
        text = "true" if value is True else os.fspath(value) if _is_path(value) else str(value)
        arguments.append(f"--{name}={text}")
    return arguments


def _is_path(value: Any) -> bool:
    return hasattr(value, "__fspath__")


def _json(text: str) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(text)
    return found


def _run(arguments: List[str], progress: bool) -> str:
    code, out, err = _execute(arguments, progress)
    if code != 0:
        raise _errors.of(code, err)
    return out


def _execute(arguments: List[str], progress: bool) -> Tuple[int, str, str]:
    archive_later()
    process = subprocess.Popen(
        command(arguments),
        env={**environment(), "RESHARD_PROGRESS": "json"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None and process.stderr is not None
    said: Deque[str] = collections.deque(maxlen=200)
    reader = threading.Thread(target=_follow, args=(process.stderr, progress, said), daemon=True)
    reader.start()
    try:
        out = process.stdout.read()
        code = process.wait()
    except BaseException:
        process.terminate()
        raise
    finally:
        reader.join(timeout=5)
    message = "\n".join(said)
    return code, out, message[len("reshard: ") :] if message.startswith("reshard: ") else message


def _follow(stream: TextIO, progress: bool, said: Deque[str]) -> None:
    """Shows progress, and keeps what else is said for the message of an error."""
    shown = _Shown() if progress and _first_rank() else None
    try:
        for line in stream:
            step = _step(line)
            if step is None:
                said.append(line.rstrip("\n"))
            elif shown is not None:
                shown.step(step)
    finally:
        if shown is not None:
            shown.close()


def _first_rank() -> bool:
    """Of many ranks that a launcher started, one shows progress."""
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    return rank == "0"


def _step(line: str) -> Optional[Dict[str, Any]]:
    if not line.startswith('{"phase"'):
        return None
    try:
        return _json(line)
    except ValueError:
        return None


class _Shown:
    """A bar of tqdm for what has a size; else, and without tqdm, a line every few seconds."""

    _SECONDS = 5.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._phase = ""
        self._next_line = 0.0
        try:
            from tqdm.auto import tqdm

            self._tqdm: Any = tqdm
        except ImportError:
            self._tqdm = None

    def step(self, step: Dict[str, Any]) -> None:
        total = step.get("totalBytes")
        if step["phase"] != self._phase:
            self.close()
            self._phase = step["phase"]
            # What is done at once is not worth a line.
            self._next_line = max(self._next_line, time.monotonic() + 1.0)
            if total and self._tqdm is not None:
                self._bar = self._tqdm(
                    total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=self._phase
                )
        if self._bar is not None:
            self._bar.update(step.get("movedBytes", 0) - self._bar.n)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + self._SECONDS
            print(f"reshard: {step['text']}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
