"""Trains under tensor parallelism with real DeepSpeed: AutoTP on three kinds of model, or layers that the
script cuts by itself, as Megatron does. See README.md.

With --fill all masters, moments and module weights are replaced, just before they are saved, by numbers that
follow from the parameter's name and the place in its full tensor alone. So what two sizes save is the same
training state, and what DeepSpeed writes at one is what is right for a reshard of the other. Where an element
of a local tensor lies in the full one is read off DeepSpeed itself: it cuts a model whose weights are 0, 1, 2...
"""

import argparse
import json
import os
import re
import sys
import zlib

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
BATCH, VOCABULARY, WIDTH, SEQUENCE = 24, 37, 12, 5


def cpu_only():
    """Let DeepSpeed train on a plain CPU: no JIT-compiled shared-memory collectives, and fp16 without AMX."""
    import deepspeed.comm.torch  # noqa: F401
    from deepspeed.accelerator import get_accelerator
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    type(get_accelerator()).is_fp16_supported = lambda self: True


class Block(nn.Module):
    """Column and row parallel layers: a fused `qkv`, or one of a single matrix."""

    def __init__(self, inner, fused):
        super().__init__()
        self.fused = fused
        self.ln = nn.LayerNorm(WIDTH)
        self.fc = nn.Linear(WIDTH, inner * (3 if fused else 1))
        self.out = nn.Linear(inner, WIDTH)

    def forward(self, x):
        h = self.fc(self.ln(x))
        if self.fused:
            q, k, v = h.chunk(3, -1)
            return x + self.out(torch.relu(q) * k + v)
        return x + self.out(torch.relu(h))


class Net(nn.Module):
    # What `frozen` does not train: whole on each rank, cut along rows, and along columns.
    FROZEN = ("emb.weight", "blocks.0.ln.bias", "blocks.0.fc.weight", "blocks.0.fc.bias", "blocks.1.out.weight")

    def __init__(self, inner, fused, frozen=False):
        super().__init__()
        self.emb = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList([Block(inner, fused) for _ in range(2)])
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if frozen:
            self.register_buffer("seen", torch.arange(3.0))
            for name in self.FROZEN:
                self.get_parameter(name).requires_grad_(False)

    def forward(self, input_ids, labels):
        h = self.emb(input_ids)
        for block in self.blocks:
            h = block(h)
        return nn.functional.cross_entropy(self.head(h).float().flatten(0, 1), labels.flatten())


class Cut(nn.Module):
    """Layers as Megatron-DeepSpeed names and cuts them; what they compute is of no interest here."""

    # What is cut along which dimension; all else is whole on each rank. `gate_up` is cut in its two halves.
    ROWS, COLUMNS = ("word_embeddings.weight", "fc.weight", "fc.bias"), ("out.weight",)

    def __init__(self, rank, ranks, whole=False):
        super().__init__()
        self.where = {}
        for name, shape in {
                "word_embeddings.weight": (-(-VOCABULARY // (4 * ranks)) * 4 * ranks, WIDTH),
                "layers.0.norm.weight": (WIDTH,), "layers.0.fc.weight": (24, WIDTH), "layers.0.fc.bias": (24,),
                "layers.0.gate_up.weight": (48, WIDTH), "layers.0.out.weight": (WIDTH, 24),
                "layers.0.out.bias": (WIDTH,), "layers.0.scale": (1,)}.items():
            places = torch.arange(torch.Size(shape).numel()).view(shape)
            if name == "word_embeddings.weight":
                places[VOCABULARY:] = -1
            if name.endswith("gate_up.weight"):
                places = torch.cat([half.chunk(ranks)[rank] for half in places.chunk(2)])
            elif name.endswith(self.ROWS):
                places = places.chunk(ranks)[rank]
            elif name.endswith(self.COLUMNS):
                places = places.chunk(ranks, 1)[rank]
            self.where[name] = places.contiguous()
            self.register_parameter(name.replace(".", "_"), nn.Parameter(torch.randn(places.shape) / 8))

    def forward(self, input_ids, labels):
        return sum((p.float()**2).sum() for p in self.parameters()) + 0 * input_ids.sum()

    @staticmethod
    def info(ranks):
        return {"universal_checkpoint_info": {
            "universal_checkpoint_version": 0.2, "original_vocab_size": VOCABULARY,
            "padded_vocab_size": -(-VOCABULARY // (4 * ranks)) * 4 * ranks,
            "vocabulary_parameter_patterns": [r"word_embeddings_weight"],
            "tp_replicated_parameter_patterns": [r"layers_\d+_norm_weight", r"layers_\d+_out_bias"],
            "parameter_to_average_patterns": [r"layers_\d+_scale"],
            "parameter_with_row_parallelism_patterns": [r"layers_\d+_out_weight"],
            "parameter_with_2_sub_params_cat_dim_0": [r"layers_\d+_gate_up_weight"]}}


class Mpu:
    """The groups of DeepSpeed's `mpu`: tensor-parallel ranks are neighbours."""

    def __init__(self, ranks):
        world, me = dist.get_world_size(), dist.get_rank()
        self.ranks, self.rank = ranks, me % ranks
        for first in range(0, world, ranks):
            group = dist.new_group(list(range(first, first + ranks)))
            self.model = group if first <= me < first + ranks else getattr(self, "model", None)
        for first in range(ranks):
            group = dist.new_group(list(range(first, world, ranks)))
            self.data = group if first == self.rank else getattr(self, "data", None)

    def get_model_parallel_rank(self): return self.rank
    def get_model_parallel_world_size(self): return self.ranks
    def get_model_parallel_group(self): return self.model
    def get_tensor_model_parallel_rank(self): return self.rank
    def get_tensor_model_parallel_world_size(self): return self.ranks
    def get_tensor_model_parallel_group(self): return self.model
    def get_data_parallel_rank(self): return dist.get_rank() // self.ranks
    def get_data_parallel_world_size(self): return dist.get_world_size() // self.ranks
    def get_data_parallel_group(self): return self.data


def model(a, tensor_rank):
    torch.manual_seed(a.seed)
    if a.model == "cut":
        return Cut(tensor_rank, a.tp)
    if not a.model.startswith("llama"):
        return Net(a.inner, a.model == "qkv", a.model == "frozen")
    from transformers import LlamaConfig, LlamaForCausalLM
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=24, intermediate_size=22, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=4, head_dim=4, tie_word_embeddings=a.model == "llama-tied", max_position_embeddings=16))


def config(a, data_ranks):
    made = {"train_micro_batch_size_per_gpu": BATCH // data_ranks, "zero_optimization": {"stage": a.stage},
            "zero_allow_untested_optimizer": True, "steps_per_print": 1000,
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}}}
    if a.gad:
        made["data_types"] = {"grad_accum_dtype": a.gad}
    if a.dtype != "fp32":
        made[a.dtype] = {"enabled": True}
    if a.sub:
        made["zero_optimization"]["sub_group_size"] = a.sub
    if a.model != "cut" and a.tp > 1:
        made["tensor_parallel"] = {"autotp_size": a.tp}
        if not a.model.startswith("llama"):
            column = {"patterns": [".*fc\\.weight$"], "partition_type": "column"}
            if a.model == "qkv":
                column.update(shape=[3, -1], partition_dim=0)
            made["tensor_parallel"]["partition_config"] = {"use_default_specs": False, "layer_specs": [
                column, {"patterns": [".*out\\.weight$"], "partition_type": "row"},
                {"patterns": [".*"], "partition_type": "skip"}]}
    return made


def places(a, tensor_rank):
    """For each parameter where the elements of this rank's local tensor lie in the full one."""
    net = model(a, tensor_rank)
    if a.model == "cut":
        return {name.replace(".", "_"): where for name, where in net.where.items()}
    for p in net.parameters():
        p.data = torch.arange(p.numel(), dtype=torch.float32).view(p.shape)
    if a.tp > 1:
        import deepspeed
        made = config(argparse.Namespace(**{**vars(a), "stage": 0, "dtype": "fp32", "gad": None, "sub": 0}), 1)
        made.pop("optimizer")
        net = deepspeed.initialize(model=net, config=made)[0].module
    return {name: p.data.long().clone() for name, p in net.named_parameters()}


def number(name, state, where):
    gen = torch.Generator().manual_seed(zlib.crc32(f"{name} {state}".encode()))
    of = torch.rand(20000, generator=gen)
    of = of / 5 - 0.1 if state == "fp32" else of / 100 if state == "exp_avg" else of / 10000
    return torch.where(where < 0, torch.zeros(()), of[where.clamp(min=0)])


def fill(engine, known, data_rank):
    from deepspeed.utils import (safe_set_full_fp32_param, safe_set_full_optimizer_state, safe_set_local_fp32_param,
                                 safe_set_local_optimizer_state)
    for name, p in engine.module.named_parameters():
        sharded = hasattr(p, "ds_tensor")

        def value(state):
            of = number(name, state, known[name])
            if not sharded:
                return of
            # What DeepSpeed 0.19.8 offers for whole parameters fails where ZeRO-3 pads them.
            size = p.ds_tensor.numel()
            own = torch.zeros(size)
            part = of.flatten()[data_rank * size:(data_rank + 1) * size]
            own[:part.numel()] = part
            return own

        (p.ds_tensor if sharded else p).data.copy_(value("fp32"))
        if not p.requires_grad:
            continue
        set_state = safe_set_local_optimizer_state if sharded else safe_set_full_optimizer_state
        set_master = safe_set_local_fp32_param if sharded else safe_set_full_fp32_param
        for state in ("exp_avg", "exp_avg_sq"):
            set_state(p, value(state), state)
        set_master(p, value("fp32"))


def run(rank, world, a):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(a.port), LOCAL_SIZE=str(world))
    import deepspeed
    cpu_only()
    deepspeed.init_distributed("gloo")
    known = places(a, rank % a.tp) if a.fill else None
    data_ranks, data_rank, more = world // a.tp, rank // a.tp, {}
    if a.model == "cut":
        more["mpu"] = Mpu(a.tp)
    engine = deepspeed.initialize(model=model(a, rank % a.tp), config=config(a, data_ranks), **more)[0]
    if a.load:
        assert engine.load_checkpoint(a.load, tag=a.tag)[0] is not None
    losses = []

    def steps(first, count):
        for step in range(first, first + count):
            gen = torch.Generator().manual_seed(1000 + step)
            x, y = (torch.randint(0, VOCABULARY, (BATCH, SEQUENCE), generator=gen) for _ in range(2))
            per = BATCH // data_ranks
            x, y = (t[data_rank * per:(data_rank + 1) * per] for t in (x, y))
            if a.model.startswith("llama"):
                loss = engine(input_ids=x, labels=x).loss
            else:
                loss = engine(x, y)
            engine.backward(loss)
            engine.step()
            total = loss.detach().float().clone()
            dist.all_reduce(total)
            losses.append(total.item() / world)

    steps(a.start, a.steps)
    if a.fill:
        fill(engine, known, data_rank)
    if a.save:
        engine.save_checkpoint(a.save, tag="global_step3", client_state=Cut.info(a.tp) if a.model == "cut" else {})
    steps(a.start + a.steps, a.more)
    if rank == 0:
        print("LOSS", json.dumps(losses))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for key, kind, default in [("world", int, 2), ("tp", int, 2), ("stage", int, 1), ("inner", int, 40),
                               ("model", str, "columns"), ("dtype", str, "bf16"), ("gad", str, None), ("sub", int, 0),
                               ("steps", int, 3), ("more", int, 0), ("start", int, 0), ("port", int, 29551),
                               ("save", str, None), ("load", str, None), ("tag", str, None), ("seed", int, 3)]:
        parser.add_argument("--" + key, type=kind, default=default)
    parser.add_argument("--fill", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    mp.spawn(run, args=(a.world, a), nprocs=a.world)
