"""Writes tensors.pkl beside this script: the data.pkl of tensors of every kind (PyTorch 2.6.0)."""

import io
import pathlib
import zipfile

import torch

NAMES = (
    "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 "
    "uint16 uint32 uint64 float8_e4m3fn float8_e5m2"
).split()

tensors = {name: torch.zeros(2, 3, dtype=getattr(torch, name)) for name in NAMES}
tensors["view"] = tensors["float32"].view(6)[2:]
tensors["transposed"] = tensors["float32"].t()
tensors["scalar"] = torch.zeros(())
tensors["empty"] = torch.zeros(0)
tensors["parameter"] = torch.nn.Parameter(torch.zeros(3))
tensors["attributes"] = torch.zeros(3)
tensors["attributes"].note = "kept"
tensors["parameter_attributes"] = torch.nn.Parameter(torch.zeros(3))
tensors["parameter_attributes"].note = "kept"

buffer = io.BytesIO()
torch.save(tensors, buffer)
(pathlib.Path(__file__).parent / "tensors.pkl").write_bytes(zipfile.ZipFile(buffer).read("archive/data.pkl"))
