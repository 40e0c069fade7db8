"""A training script as docs/launch.md has it, started by a launcher: launched.py CKPT STEPS.

Goes on from CKPT whatever the number of ranks, by one call of reshard.ensure on every rank, and
saves into CKPT. Rank 0 prints what it loaded and a digest of all master weights.
"""

import os
import sys
import zlib

import deepspeed
import deepspeed.comm.torch  # noqa: F401
import reshard
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_fp32_param

checkpoint, steps = sys.argv[1], int(sys.argv[2])
# No JIT-compiled shared-memory collectives on a plain CPU.
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
get_accelerator()
world = int(os.environ["WORLD_SIZE"])

path = None
if os.path.exists(os.path.join(checkpoint, "latest")):
    path = reshard.ensure(checkpoint, gpus=world)

deepspeed.init_distributed("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(7, 11), torch.nn.Tanh(), torch.nn.Linear(11, 3))
engine, _, _, _ = deepspeed.initialize(
    model=model,
    model_parameters=model.parameters(),
    config={
        "train_batch_size": 6,
        "train_micro_batch_size_per_gpu": 6 // world,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01, "torch_adam": True}},
        "zero_optimization": {"stage": 2},
        "steps_per_print": 1000,
    },
)
if path:
    engine.load_checkpoint(path)
for _ in range(steps):
    batch = torch.randn(6, 7, generator=torch.Generator().manual_seed(engine.global_steps))
    mine = batch[dist.get_rank() :: world]
    engine.backward(engine(mine).square().mean())
    engine.step()
weights = b"".join(safe_get_full_fp32_param(p).numpy().tobytes() for p in model.parameters())
paths = [None] * world
dist.all_gather_object(paths, path)
if dist.get_rank() == 0:
    assert len(set(paths)) == 1, paths
    print(f"LOADED {path} STEP {engine.global_steps} WEIGHTS {zlib.crc32(weights):08x}", flush=True)
if steps:
    engine.save_checkpoint(checkpoint)
dist.barrier()
dist.destroy_process_group()
