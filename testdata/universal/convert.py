"""Makes the Universal Checkpoints beside this page of the corpus, with DeepSpeed's own converter.

    scripts/interop python testdata/universal/convert.py VERSION CASE OUT

runs the converter of the environment; PYTHONPATH chooses another DeepSpeed, as in `scripts/interop
versions`. VERSION is only checked.
"""

import importlib.metadata
import os
import runpy
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "..", "scripts", "interop.d"))
import old_deepspeed  # noqa: E402,F401

# Model files of tensor-parallel runs say how their slices are joined; others say nothing.
SAY_IT_THEMSELVES = {"tp2-z1"}


def main(version, case, out):
    found = importlib.metadata.version("deepspeed").split("+")[0]
    if found != version:
        sys.exit(f"expected DeepSpeed {version}, found {found}")
    sys.argv = ["ds_to_universal",
                "--input_folder", os.path.join(HERE, "..", "corpus", case, "source", "global_step3"),
                "--output_folder", os.path.join(out, "global_step3_universal"),
                "--num_extract_workers", "1", "--num_merge_workers", "1"]
    if case not in SAY_IT_THEMSELVES:
        sys.argv.append("--inject_missing_state")
    os.makedirs(out, exist_ok=True)
    runpy.run_module("deepspeed.checkpoint.ds_to_universal", run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
