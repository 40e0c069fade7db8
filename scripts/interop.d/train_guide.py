"""Training with Accelerate that saves and loads by the snippets of docs/user-shards.md."""

import argparse
import json
import os
import re

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import train

GUIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "user-shards.md")
OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2),
}


def snippet(name):
    with open(GUIDE, encoding="utf-8") as guide:
        found = re.findall(rf"<!-- snippet: {name} -->\n```python\n(.*?)```", guide.read(), re.DOTALL)
    assert len(found) == 1, f"{GUIDE} has {len(found)} snippets called {name}"
    return compile(found[0], f"{GUIDE}:{name}", "exec")


def run(rank, world, a):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(a.port), ACCELERATE_USE_DEEPSPEED="true")
    from accelerate import Accelerator
    from accelerate.utils import DeepSpeedPlugin, set_seed

    train.cpu_only()
    accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config(a, world)))
    set_seed(1)
    model = train.Net()
    optimizer = OPTIMIZERS[a.opt](train.groups(model, True))
    model, optimizer = accelerator.prepare(model, optimizer)
    observe = getattr(model, "observe", lambda phase: None)
    if a.load and a.future:
        perform(a.load, "load-in-future", accelerator, model, optimizer)
    elif a.load:
        way = "load-sanitized" if a.sanitized else "load-zero3" if a.stage == 3 else "load"
        perform(a.load, way, accelerator, model, optimizer)
        # The engine's own counters are in none of these files.
        model.global_steps, model.global_samples = a.start, 24 * a.start
        observe("loaded")
    losses = []
    for step in range(a.start, a.start + a.steps + a.more):
        if step == a.start + a.steps and a.save:
            os.makedirs(a.save, exist_ok=True)
            if not a.future:
                observe("saved")
            perform(a.save, "save-in-future" if a.future else "save", accelerator, model, optimizer)
            accelerator.wait_for_everyone()
        generator = torch.Generator().manual_seed(1000 + step)
        x, y = (torch.randint(0, 37, (24, 5), generator=generator) for _ in range(2))
        share = slice(rank * (24 // world), (rank + 1) * (24 // world))
        loss = model(x[share], y[share])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().float().clone()
        dist.all_reduce(total)
        losses.append(total.item() / world)
    if rank == 0:
        print("LOSS", json.dumps(losses))


def config(a, world):
    zero = {"stage": a.stage}
    if a.round_robin:
        zero["round_robin_gradients"] = True
    if a.stage == 3:
        zero.update(stage3_gather_16bit_weights_on_model_save=True,
                    stage3_param_persistence_threshold=20)
    chosen = {
        "train_micro_batch_size_per_gpu": 24 // world, "gradient_accumulation_steps": 1,
        "zero_optimization": zero, "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False, "steps_per_print": 1000}
    if a.dtype != "fp32":
        chosen[a.dtype] = {"enabled": True}
    if a.dtype == "fp16":
        chosen["fp16"].update(initial_scale_power=8, loss_scale_window=2)
    if a.gad:
        chosen["data_types"] = {"grad_accum_dtype": a.gad}
    return chosen


def perform(folder, name, accelerator, model, optimizer):
    exec(snippet(name), {"os": os, "torch": torch, "folder": folder, "accelerator": accelerator,
                         "model": model, "optimizer": optimizer})


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    for option, kind, default in [("world", int, 2), ("stage", int, 2), ("start", int, 0),
                                  ("steps", int, 3), ("more", int, 0), ("port", int, 29581),
                                  ("save", str, None), ("load", str, None), ("dtype", str, "fp32"),
                                  ("gad", str, None), ("opt", str, "adamw")]:
        p.add_argument(f"--{option}", type=kind, default=default)
    for option in ("round_robin", "future", "sanitized"):
        p.add_argument(f"--{option}", action="store_true")
    a = p.parse_args()
    mp.spawn(run, args=(a.world, a), nprocs=a.world)
