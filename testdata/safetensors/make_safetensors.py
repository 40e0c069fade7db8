"""Makes the files beside this one with the libraries that define them.

Run with: scripts/interop python testdata/safetensors/make_safetensors.py
safetensors 0.8.0, huggingface_hub 0.36.2, PyTorch 2.15.0.
"""
import json
import pathlib
import random

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
types = [
    "bool", "uint8", "int8", "float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "int16", "uint16", "float16", "bfloat16", "int32", "uint32", "float32",
    "complex64", "float64", "int64", "uint64",
]


def numbered(dtype, shape, first):
    """A tensor whose bytes count up from `first`; a bool's are 0 and 1."""
    count = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    content = torch.arange(first, first + count).remainder(2 if dtype == torch.bool else 251)
    return content.to(torch.uint8).view(dtype).reshape(shape)


tensors = {f"of_{name}": numbered(getattr(torch, name), (2, 3), k) for k, name in enumerate(types)}
save_file(tensors, here / "types.safetensors", metadata={"format": "pt"})

names = ["b", "a/é\"\n\x01b\u2028", "Z", "z\U0001d11e", "z\uffee", "e", "\x7f\\", "layer.10.w", "layer.2.w"]
shapes = [(), (2,), (1, 1, 3), (1,), (1,), (0, 3), (1,), (2, 2), (3,)]
tensors = {n: numbered(torch.float32, s, k) for k, (n, s) in enumerate(zip(names, shapes))}
save_file(tensors, here / "names.safetensors")

cases = []
for seed in range(12):
    draw = random.Random(seed)
    limit = draw.choice([1, 40, 100, 1000])
    sizes = [draw.choice([1, 3, 25, 40, 60, 150]) for _ in range(draw.randrange(1, 14))]
    split = split_torch_state_dict_into_shards(
        {f"t{k}": torch.zeros(size, dtype=torch.uint8) for k, size in enumerate(sizes)},
        max_shard_size=limit,
        filename_pattern="model{suffix}.safetensors",
    )
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    cases.append({"limit": limit, "sizes": sizes, "index": json.dumps(index, indent=2, sort_keys=True) + "\n"})
(here / "shards.json").write_text(json.dumps(cases, indent=1) + "\n")
