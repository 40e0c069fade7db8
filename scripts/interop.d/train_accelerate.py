"""The corpus network trained through Hugging Face Accelerate: save_state and load_state."""

import argparse
import json
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import train


def run(rank, world, a):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(a.port), ACCELERATE_USE_DEEPSPEED="true")
    from accelerate import Accelerator
    from accelerate.utils import DeepSpeedPlugin, set_seed

    train.cpu_only()
    plugin = DeepSpeedPlugin(hf_ds_config={
        "train_micro_batch_size_per_gpu": 24 // world, "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": a.stage}, "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False, "steps_per_print": 1000})
    # Otherwise Accelerate steps the scheduler once for each rank, so that the learning rate would
    # depend on their number.
    accelerator = Accelerator(deepspeed_plugin=plugin, step_scheduler_with_optimizer=False)
    set_seed(1)
    model = train.Net()
    optimizer = torch.optim.AdamW(train.groups(model, True), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    if a.load:
        accelerator.load_state(a.load)
    losses = []
    for step in range(a.start, a.start + a.steps + a.more):
        if step == a.start + a.steps and a.save:
            accelerator.save_state(a.save)
        generator = torch.Generator().manual_seed(1000 + step)
        x, y = (torch.randint(0, 37, (24, 5), generator=generator) for _ in range(2))
        share = slice(rank * (24 // world), (rank + 1) * (24 // world))
        loss = model(x[share], y[share])
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        total = loss.detach().float().clone()
        dist.all_reduce(total)
        losses.append(total.item() / world)
    if rank == 0:
        print("LOSS", json.dumps(losses))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    for option, kind, default in [("world", int, 2), ("stage", int, 2), ("start", int, 0),
                                  ("steps", int, 3), ("more", int, 0), ("port", int, 29561),
                                  ("save", str, None), ("load", str, None)]:
        p.add_argument(f"--{option}", type=kind, default=default)
    a = p.parse_args()
    mp.spawn(run, args=(a.world, a), nprocs=a.world)
