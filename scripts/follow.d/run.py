"""Real DeepSpeed on the CPU: a run that saves every two steps while it is followed, and one that
loads what was made of it at another size.

  run.py train DIR STAGE SAVES   two ranks; rank 1 writes its optimizer files late. What each tag
                                 has to hold goes to DIR.want/TAG.pt
  run.py load DIR TAG WANT RANKS every state of every parameter is that, bit for bit
"""

import os
import sys
import time

os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed.comm.torch
import torch
import torch.multiprocessing as mp
import torch.nn as nn

LATE_SECONDS = 3


def engine(rank, world, stage):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ["FOLLOW_PORT"])
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # it would be compiled here
    deepspeed.init_distributed("gloo")
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(13, 29), nn.Tanh(), nn.Linear(29, 7))
    config = {
        "train_batch_size": 12, "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": True}, "steps_per_print": 1000}
    made, *_ = deepspeed.initialize(
        model=net, optimizer=torch.optim.AdamW(net.parameters(), lr=1e-2), config=config)
    return made


def step(made, rank, world, number):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(12, 13, generator=generator).bfloat16()
    share = slice(rank * 12 // world, (rank + 1) * 12 // world)
    made.backward(made(x[share]).float().pow(2).mean())
    made.step()


def states(made):
    """Every state of every parameter, whole; all ranks take part."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
    # DeepSpeed links the states to their parameters in a step, with those that are there then.
    made.optimizer._hp_optimizer_states_linked = False
    getattr(made.optimizer, "_lazy_init_hp_params_optimizer_state", lambda: None)()
    whole = {"global_steps": torch.tensor(made.global_steps)}
    for name, parameter in made.module.named_parameters():
        whole[name] = safe_get_full_fp32_param(parameter).clone()
        for state in ("exp_avg", "exp_avg_sq"):
            whole[name, state] = safe_get_full_optimizer_state(parameter, state).clone()
    return whole


def train(rank, world, directory, stage, saves):
    made = engine(rank, world, stage)
    save = made.checkpoint_engine.save

    def late(*args, **kwargs):
        if "optim_states" in (kwargs.get("path") or args[1]):
            time.sleep(LATE_SECONDS)
        return save(*args, **kwargs)

    if rank == 1:
        made.checkpoint_engine.save = late
    for number in range(1, 2 * saves + 1):
        step(made, rank, world, number)
        if number % 2 == 0:
            made.save_checkpoint(directory)
            whole = states(made)
            if rank == 0:
                os.makedirs(directory + ".want", exist_ok=True)
                torch.save(whole, f"{directory}.want/global_step{number}.pt")
    made.destroy()


def load(rank, world, directory, tag, want):
    stage = int(os.environ["FOLLOW_STAGE"])
    made = engine(rank, world, stage)
    path, _ = made.load_checkpoint(directory, tag=tag)
    assert path, "nothing was loaded"
    found = states(made)
    wanted = torch.load(want)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), f"{key} differs"
    step(made, rank, world, 1000)  # and it goes on
    made.destroy()


def start(function, ranks, *args):
    """Forked, so that PyTorch and DeepSpeed, which take seconds, are imported once."""
    mp.start_processes(function, args=(ranks, *args), nprocs=ranks, start_method="fork")


if __name__ == "__main__":
    what, directory, *rest = sys.argv[1:]
    if what == "train":
        start(train, 2, directory, int(rest[0]), int(rest[1]))
    else:
        start(load, int(rest[2]), directory, rest[0], rest[1])
