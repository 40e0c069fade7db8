"""Makes testdata/dcp: distributed checkpoints that PyTorch itself wrote, of known values.

    python dcp_goldens.py OUT

Parameter number i of the model (in the order of named_parameters, tied ones once) has the elements
100 i, 100 i + 1, ... in row-major order; exp_avg is that plus 0.25, exp_avg_sq plus 0.5, step 7.
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 5)
        self.fc = nn.Linear(5, 3)
        self.one = nn.Parameter(torch.zeros(1))
        self.tied = nn.Linear(5, 7, bias=False)
        self.tied.weight = self.emb.weight
        self.register_buffer("scale", torch.tensor(1.5))
        self.frozen = nn.Parameter(torch.arange(4.0), requires_grad=False)


def fsdp2(rank, world, out, flat):
    model = Net()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for i, name in enumerate(names):
            p = model.get_parameter(name)
            p.copy_((torch.arange(p.numel()) + 100 * i).view(p.shape))
    mesh = init_device_mesh("cpu", (world,))
    fully_shard(model, mesh=mesh)
    groups = [
        {"params": [model.emb.weight, model.fc.weight], "weight_decay": 0.1},
        {"params": [model.fc.bias, model.one], "weight_decay": 0.0, "lr": 2e-2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    with torch.no_grad():
        for name in names:
            p = model.get_parameter(name)
            optimizer.state[p] = {
                "step": torch.tensor(7.0),
                "exp_avg": p.detach() + 0.25,
                "exp_avg_sq": p.detach() + 0.5,
            }
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    of_model, of_optimizer = get_state_dict(model, optimizer, options=options)
    state = {"model": of_model, "optim": of_optimizer, "step": 7, "client": {"epochs": [2, 3]}}
    dcp.save(state, checkpoint_id=out)


def boxes(rank, world, out):
    """Cut along both dimensions; 5 rows among 2 and 7 columns among 2 are uneven."""
    mesh = init_device_mesh("cpu", (2, 2))
    full = torch.arange(35.0).view(5, 7)
    state = {
        "both": distribute_tensor(full, mesh, [Shard(0), Shard(1)]),
        "columns": distribute_tensor(full.to(torch.bfloat16), mesh, [Shard(1), Shard(1)]),
    }
    dcp.save(state, checkpoint_id=out)


def run(rank, world, port, what, out, flat):
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    if what == "fsdp2":
        fsdp2(rank, world, out, flat)
    else:
        boxes(rank, world, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    # DCP writes down the path that it is given.
    os.makedirs(sys.argv[1], exist_ok=True)
    os.chdir(sys.argv[1])
    port = 29650
    for name, what, world, flat in (
        ("nested", "fsdp2", 3, False),
        ("flat", "fsdp2", 2, True),
        ("boxes", "boxes", 4, False),
    ):
        mp.spawn(run, args=(world, port, what, name, flat), nprocs=world)
        port += 1
