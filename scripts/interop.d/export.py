"""Has Transformers the last word on `reshard export`: DeepSpeed trains a tiny model of it and saves;
what is exported must be byte for byte what save_pretrained writes of the same weights, and
from_pretrained must load it, with no key too few or too many, to the logits of the run."""

import argparse
import dataclasses
import filecmp
import fnmatch
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
import transformers

import ranks
from interop import CLONE, CORPUS, HERE, Mismatch, _brief, entry


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained, and what is asked of the export beside input and output."""

    name: str
    arguments: str
    export: str = ""
    world: int = 2


ADAPTER = "--only=*lora_*,*modules_to_save*"
CASES = (
    Case("llama-tied-z1", "--model llama --stage 1"),
    Case("llama-tied-z2", "--model llama --stage 2", world=3),
    Case("llama-tied-z3", "--model llama --stage 3", world=3),
    Case("llama-untied-z2", "--model llama --stage 2 --untied"),
    Case("llama-untied-z3-shards", "--model llama --stage 3 --untied --shard 3000",
         "--shardBytes=3000"),
    Case("gpt2-z1-fp32", "--model gpt2 --stage 1 --dtype fp32"),
    Case("gpt2-z2-shards", "--model gpt2 --stage 2 --shard 9000", "--shardBytes=9000"),
    Case("gpt2-z3", "--model gpt2 --stage 3"),
    Case("t5-z2", "--model t5 --stage 2"),
    Case("llama-frozen-z1", "--model llama --stage 1 --freeze"),
    Case("llama-frozen-z2", "--model llama --stage 2 --freeze"),
    Case("gpt2-frozen-z3", "--model gpt2 --stage 3 --freeze"),
    Case("llama-bf16-optimizer", "--model llama --stage 1 --gad fp32"),
    Case("llama-lora-z2", "--model llama --stage 2 --lora --exclude"),
    Case("llama-lora-z3", "--model llama --stage 3 --lora --exclude"),
    Case("gpt2-lora-z1-only", "--model gpt2 --stage 1 --lora", ADAPTER),
    Case("llama-lora-untied-z2-only", "--model llama --stage 2 --lora --untied", ADAPTER),
)


def main():
    parser = argparse.ArgumentParser(prog="scripts/interop export", description=__doc__)
    parser.add_argument("--case", action="append", metavar="GLOB", help="only such cases")
    parser.add_argument("--reshard", default=os.path.join(CLONE, "scripts", "reshard"),
                        metavar="COMMAND", help="what to export with (default: scripts/reshard)")
    parser.add_argument("--work", metavar="DIR", help="keep everything here")
    options = parser.parse_args()
    sys.path.append(CORPUS)
    work = options.work or tempfile.mkdtemp(prefix="reshard-export-")
    failed = passed = 0
    for case in CASES:
        if not any(fnmatch.fnmatch(case.name, pattern) for pattern in options.case or "*"):
            continue
        try:
            tensors = judged(case, os.path.join(work, case.name), shlex.split(options.reshard))
            passed += 1
            print(f"{case.name:<24} {tensors} tensors, same files, same logits", flush=True)
        except Exception as error:
            failed += 1
            print(f"{case.name:<24} {_brief(error)}", flush=True)
    if not options.work and not failed:
        shutil.rmtree(work)
    print(f"{passed} passed, {failed} failed" + (f"; see {work}" if failed else ""))
    return 1 if failed or not passed else 0


def judged(case, home, reshard):
    os.makedirs(home)
    saved, reference, output = (os.path.join(home, name) for name in ("saved", "reference", "out"))
    run, arguments = entry(os.path.join(HERE, "train_hub.py"), [
        *case.arguments.split(), "--world", str(case.world), "--save", saved, "--reference",
        reference])
    ranks.run(run, case.world, arguments, os.path.join(home, "train.log"))
    done = subprocess.run([*reshard, "export", f"--input={saved}", f"--output={output}",
                           *case.export.split()], capture_output=True, text=True)
    if done.returncode:
        raise Mismatch(done.stderr.strip())
    weights = sorted(name for name in os.listdir(reference) if name.endswith(".safetensors"))
    written = sorted(name for name in os.listdir(output) if name.endswith(".safetensors"))
    if weights != written:
        raise Mismatch(f"save_pretrained writes {weights}, found {written}")
    for name in weights:
        if not filecmp.cmp(os.path.join(reference, name), os.path.join(output, name), False):
            raise Mismatch(f"{name} is not what save_pretrained writes")
    index = "model.safetensors.index.json"
    if len(weights) > 1:
        one, two = (json.load(open(os.path.join(d, index))) for d in (reference, output))
        if one["weight_map"] != two["weight_map"]:
            raise Mismatch(f"{index} says otherwise")
        if one["metadata"]["total_size"] != two["metadata"]["total_size"]:
            raise Mismatch(f"{index} has another total_size")
    if "lora" in case.name:
        model = adapted(reference, output)
        return _same_logits(model, reference, len(safetensors.torch.load_file(
            os.path.join(output, weights[0]))))
    kind = transformers.AutoModelForSeq2SeqLM if "t5" in case.name else transformers.AutoModelForCausalLM
    model, info = kind.from_pretrained(output, output_loading_info=True, dtype="auto")
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        raise Mismatch(f"from_pretrained: {info}")
    return _same_logits(model, reference, len(list(model.state_dict())))


def adapted(reference, output):
    """The base model of a run with the adapters that were exported, as PEFT loads them."""
    import peft

    base = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.join(reference, "base"), dtype="auto")
    return peft.PeftModel.from_pretrained(base, output, autocast_adapter_dtype=False)


def _same_logits(model, reference, tensors):
    namespace = {}
    exec(compile(open(os.path.join(HERE, "train_hub.py")).read(), "train_hub.py", "exec"), namespace)
    found = namespace["logits"](model)
    expected = torch.load(os.path.join(reference, "logits.pt"))
    if found.dtype != expected.dtype or not torch.equal(found, expected):
        raise Mismatch("the logits are not those of the run")
    return tensors


if __name__ == "__main__":
    sys.exit(main())
