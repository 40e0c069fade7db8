"""The corpus network trained with FSDP2, or FSDP1, on the CPU; its checkpoints are PyTorch's distributed ones.

Batches, order of parameters and losses are those of the corpus script train.py, so that a run may
go on where DeepSpeed stopped, and the other way round. Gradients are clipped at 1.0, because that
is what DeepSpeed does unless it is told otherwise.
"""

import argparse
import json
import os
import re
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_model_state_dict, get_optimizer_state_dict, set_model_state_dict,
    set_optimizer_state_dict)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel, MixedPrecisionPolicy, StateDictType, fully_shard)
from torch.distributed.tensor import DTensor, Shard

import extras
import train

GUIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "fsdp.md")
OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, lr=1e-2, amsgrad=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1e-2),
    "sgd0": lambda groups: torch.optim.SGD(groups, lr=1e-2),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3, momentum=0.5),
}


def optimizer(name, groups):
    if name in OPTIMIZERS:
        return OPTIMIZERS[name](groups)
    return extras.OPTIMIZERS[name](OPTIMIZERS["adamw"](groups).param_groups)


def snippet(name):
    with open(GUIDE, encoding="utf-8") as guide:
        found = re.findall(rf"<!-- snippet: {name} -->\n```python\n(.*?)```", guide.read(), re.DOTALL)
    assert len(found) == 1, f"{GUIDE} has {len(found)} snippets called {name}"
    return compile(found[0], f"{GUIDE}:{name}", "exec")


class Trained:
    """Model, optimizer and scheduler, as a state dict of a dialect."""

    def __init__(self, a, mesh):
        self.flat = a.dialect in ("torchFlat", "torchtitan")
        self.dialect = a.dialect
        self.model = train.Net(tie=a.tie, freeze=a.freeze)
        policy = MixedPrecisionPolicy()
        if a.dtype == "bf16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        def placement(parameter):
            even = parameter.ndim > 1 and parameter.shape[1] % mesh.size() == 0
            return Shard(1) if a.columns and even else Shard(0)

        for module in (*self.model.blocks, self.model):
            fully_shard(module, mesh=mesh, mp_policy=policy, shard_placement_fn=placement)
        self.optimizer = optimizer(a.opt, train.groups(self.model, a.two))
        self.scheduler = (
            torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.9) if a.sched else None)
        self.steps = a.start
        self.partial = a.partial

    def _options(self):
        return StateDictOptions(flatten_optimizer_state_dict=self.flat)

    def parts(self):
        """State dicts by the directory below the checkpoint that holds them."""
        of_model = get_model_state_dict(self.model)
        of_optimizer = get_optimizer_state_dict(
            self.model, self.optimizer, options=self._options())
        more = {"global_steps": self.steps}
        if self.scheduler:
            more["lr_scheduler"] = self.scheduler.state_dict()
        if self.dialect == "torchtitan":
            return {"": {**of_model, "optimizer": of_optimizer, **more}}
        if self.dialect == "accelerate":
            return {"pytorch_model_fsdp_0": {"model": of_model, **more},
                    "optimizer_0": {"optimizer": of_optimizer}}
        return {"": {"model": of_model, "optim": of_optimizer, **more}}

    def save(self, path):
        if self.dialect == "torch" and not self.scheduler:
            self._perform("save", path)
            return
        for directory, state in self.parts().items():
            dcp.save(state, checkpoint_id=os.path.join(path, directory))

    def load(self, path):
        if self.partial:
            loaded = self._perform("partial", path)["steps"]
        elif self.dialect == "torch" and not self.scheduler:
            loaded = self._perform("load", path)["steps"]
        else:
            loaded = self._load_parts(path)
        if loaded != self.steps:
            raise AssertionError(f"global_steps is {loaded}, not {self.steps}")

    def _perform(self, name, path):
        """A snippet of docs/fsdp.md, as it stands there."""
        names = {**globals(), "model": self.model, "optimizer": self.optimizer, "folder": path,
                 "steps": self.steps}
        exec(snippet(name), names)
        return names

    def _load_parts(self, path):
        parts = self.parts()
        for directory, state in parts.items():
            dcp.load(state, checkpoint_id=os.path.join(path, directory))
        first = next(iter(parts.values()))
        optimizer = next(
            state[key] for state in parts.values() for key in ("optim", "optimizer")
            if key in state)
        names = set(get_model_state_dict(self.model))
        model = first["model"] if "model" in first else {
            key: value for key, value in first.items() if key in names}
        set_model_state_dict(self.model, model)
        set_optimizer_state_dict(
            self.model, self.optimizer, optimizer, options=self._options())
        if self.scheduler:
            self.scheduler.load_state_dict(first["lr_scheduler"])
        return first["global_steps"]

    def truth(self, path):
        """Full tensors, under the names that train.py gives them."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                tensors[f"{name}.fp32"] = full(parameter)
                for key, value in self.optimizer.state[parameter].items():
                    if torch.is_tensor(value) and value.numel() > 1:
                        tensors[f"{name}.{key}"] = full(value)
        save_truth(tensors, path)

    def clip(self, norm):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), norm)


class TrainedByFsdp1(Trained):
    """The same with FSDP1 and SHARDED_STATE_DICT, which only saves here."""

    def __init__(self, a, mesh):
        self.flat, self.dialect, self.scheduler, self.steps = False, "fsdp1", None, a.start
        self.partial = False
        self.model = FullyShardedDataParallel(
            train.Net(tie=a.tie, freeze=a.freeze), use_orig_params=True,
            device_id=torch.device("cpu"))
        self.optimizer = optimizer(a.opt, train.groups(self.model, a.two))

    def clip(self, norm):
        self.model.clip_grad_norm_(norm)

    def parts(self):
        with FullyShardedDataParallel.state_dict_type(
                self.model, StateDictType.SHARDED_STATE_DICT):
            return {"": {
                "model": self.model.state_dict(),
                "optim": FullyShardedDataParallel.optim_state_dict(self.model, self.optimizer),
                "global_steps": self.steps}}

    def save(self, path):
        super().save(path)
        self.saved = path

    def truth(self, path):
        """What PyTorch reads of what was saved: FULL_STATE_DICT of PyTorch 2.15 gives the moments
        of a parameter one place on the CPU, so that both are the second."""
        dist.barrier()
        if dist.get_rank() == 0:
            dcp_to_torch_save(self.saved, f"{path}.pt")
            read = torch.load(f"{path}.pt", weights_only=False)
            states = read["optim"]["state"]
            save_truth({
                **{f"{name}.fp32": read["model"][name] for name in states},
                **{f"{name}.{key}": value for name, state in states.items()
                   for key, value in state.items()
                   if torch.is_tensor(value) and value.numel() > 1},
            }, path)


def save_truth(tensors, path):
    if dist.get_rank() == 0:
        from safetensors.torch import save_file

        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path)


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def run(rank, world, a):
    warnings.simplefilter("ignore")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(a.port))
    dist.init_process_group("gloo")
    torch.manual_seed(a.seed)
    kind = TrainedByFsdp1 if a.fsdp1 else Trained
    trained = kind(a, init_device_mesh("cpu", (world,)))
    if a.load:
        trained.load(a.load)
    losses = []
    for step in range(a.start, a.start + a.steps + a.more):
        if step == a.start + a.steps:
            end(trained, a)
        generator = torch.Generator().manual_seed(1000 + step)
        x, y = (torch.randint(0, 37, (24, 5), generator=generator) for _ in range(2))
        share = slice(rank * (24 // world), (rank + 1) * (24 // world))
        loss = trained.model(x[share], y[share])
        trained.optimizer.zero_grad()
        loss.backward()
        if a.clip:
            trained.clip(a.clip)
        trained.optimizer.step()
        if trained.scheduler:
            trained.scheduler.step()
        trained.steps += 1
        total = loss.detach().float().clone()
        dist.all_reduce(total)
        losses.append(total.item() / world)
    if not a.more:
        end(trained, a)
    if rank == 0:
        print("LOSS", json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


def end(trained, a):
    if a.save:
        trained.save(a.save)
    if a.truth:
        trained.truth(a.truth)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    for option, kind, default in [
            ("world", int, 2), ("start", int, 0), ("steps", int, 3), ("more", int, 0),
            ("port", int, 29571), ("seed", int, 1), ("save", str, None), ("load", str, None),
            ("truth", str, None), ("clip", float, 1.0), ("dtype", str, "fp32"),
            ("opt", str, "adamw"), ("dialect", str, "torch")]:
        p.add_argument(f"--{option}", type=kind, default=default)
    for option in ("two", "tie", "freeze", "sched", "fsdp1", "columns", "partial"):
        p.add_argument(f"--{option}", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(1)
    mp.spawn(run, args=(a.world, a), nprocs=a.world)
