"""What every training script of these tests shares: a small network, its data, and what it says."""

import os
import sys
import zlib

import torch

STEPS = int(os.environ.get("STEPS", "0"))


def cpu_only():
    """DeepSpeed on a plain CPU: no collectives in shared memory, which it would compile first."""
    import deepspeed.comm.torch  # noqa: F401
    from deepspeed.accelerator import get_accelerator

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    get_accelerator()


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 11), torch.nn.Tanh(), torch.nn.Linear(11, 3))


def batch(step, rank, world):
    """This rank's share of the batch of a step, which is the same on any number of ranks."""
    return torch.randn(6, 7, generator=torch.Generator().manual_seed(step))[rank::world]


def zero_config(world):
    return {
        "train_batch_size": 6,
        "train_micro_batch_size_per_gpu": 6 // world,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01, "torch_adam": True}},
        "zero_optimization": {"stage": 2},
        "steps_per_print": 1000,
    }


def engine():
    import deepspeed

    cpu_only()
    deepspeed.init_distributed("gloo")
    network = model()
    made, _, _, _ = deepspeed.initialize(
        model=network,
        model_parameters=network.parameters(),
        config=zero_config(torch.distributed.get_world_size()),
    )
    return made


def train(engine, steps=STEPS):
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for _ in range(steps):
        engine.backward(engine(batch(engine.global_steps, rank, world)).square().mean())
        engine.step()


def say(when, path, step, module):
    """Adds a line to the file `said`: what was loaded, and a digest of all master weights."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = b"".join(
        safe_get_full_fp32_param(p).detach().numpy().tobytes() for p in module.parameters()
    )
    paths = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(paths, path)
    assert len(set(paths)) == 1, paths
    if torch.distributed.get_rank() == 0:
        name = os.path.relpath(os.path.realpath(path)) if path else None
        with open("said", "a") as said:
            print(when, len(paths), name, step, f"{zlib.crc32(weights):08x}", file=said)


def end():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
