"""Looks at what a call shows on stderr: try_progress.py CHECKPOINT OUTPUT."""

import os
import subprocess
import sys

import tqdm  # noqa: F401  # it is there

checkpoint, output = sys.argv[1:]
CALL = "import reshard, sys; reshard.reshard(sys.argv[1], sys.argv[2], 2, overwrite=True, progress={})"


def shown(progress, **more):
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(progress), checkpoint, output],
        stderr=subprocess.PIPE, text=True, check=True, env={**os.environ, **more})
    return done.stderr


bar = shown(True)
assert "moving bytes:" in bar and "%|" in bar and '{"phase"' not in bar, bar
assert shown(False) == ""
assert shown(True, RANK="1", LOCAL_RANK="1") == "", "only rank 0 shows it"
assert "moving bytes:" in shown(True, RANK="0", LOCAL_RANK="0")
