"""Trains a pipeline of layers that the script itself cuts among tensor-parallel ranks, as Megatron-DeepSpeed does, at
ZeRO-1 on the CPU: PipelineModule with a PipeModelDataParallelTopology. The embedding is the output layer too, and its
vocabulary is padded. See README.md.

  train_grid.py --pipeline P --tensor T --world PxTxD --save DIR                       three steps, then a checkpoint
  train_grid.py --pipeline P --tensor T --world PxTxD --steps 0 --load DIR --save DIR  loaded and saved again

With --fill masters, moments and weights are replaced, before they are saved, by numbers that follow from the name and
the place in the full tensor alone, so that what two grids save is one training state.
"""

import argparse
import json
import os
import sys
import zlib

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn as nn

VOCABULARY, WIDTH, INNER, BLOCKS, BATCH, LENGTH, TAG = 13, 6, 12, 4, 48, 4, "global_step3"


class Grid:
    """The rank's place: tensor-parallel ranks are neighbours, then come data-parallel ones, then stages."""

    def __init__(self, a, rank):
        self.copies = dist.get_world_size() // a.tensor // a.pipeline
        self.tensor, self.index, self.data = a.tensor, rank % a.tensor, rank // a.tensor % self.copies
        for first in range(0, dist.get_world_size(), a.tensor):
            group = dist.new_group(list(range(first, first + a.tensor)))
            if first <= rank < first + a.tensor:
                self.group = group


GRID = None


class Enter(torch.autograd.Function):
    """To where layers are cut: gradients are summed over the tensor-parallel ranks."""

    @staticmethod
    def forward(ctx, x): return x

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous()
        dist.all_reduce(grad, group=GRID.group)
        return grad


class Leave(torch.autograd.Function):
    """From there: sums over the tensor-parallel ranks."""

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        dist.all_reduce(x, group=GRID.group)
        return x

    @staticmethod
    def backward(ctx, grad): return grad


def padded(ranks):
    return -(-VOCABULARY // (2 * ranks)) * 2 * ranks


def places(name, ranks, rank):
    """Where the elements of a local tensor lie in the full one; -1 behind the end of the vocabulary."""
    rows = padded(ranks)
    shape = {"word_embeddings.weight": (rows, WIDTH), "fc.weight": (INNER, WIDTH), "fc.bias": (INNER,),
             "gate_up.weight": (2 * INNER, WIDTH), "out.weight": (WIDTH, INNER)}.get(name, (WIDTH,))
    at = torch.arange(torch.Size(shape).numel()).view(shape)
    if name == "word_embeddings.weight":
        at[VOCABULARY:] = -1
    if name == "gate_up.weight":
        return torch.cat([half.chunk(ranks)[rank] for half in at.chunk(2)]).contiguous()
    if name in ("word_embeddings.weight", "fc.weight", "fc.bias"):
        at = at.chunk(ranks)[rank]
    if name == "out.weight":
        at = at.chunk(ranks, 1)[rank]
    return at.contiguous()


def numbers(key, where, scale):
    random = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    of = (torch.rand(1000, generator=random) - (0.5 if scale == 0.2 else 0)) * scale
    return torch.where(where < 0, torch.zeros(()), of[where.clamp(min=0)])


def cut(module, layer, *names):
    for name in names:
        owner, _, last = name.rpartition(".")
        own = module.get_submodule(owner)
        where = places(name, GRID.tensor, GRID.index)
        setattr(own, last, nn.Parameter(numbers(f"{layer}.{name} first", where, 0.2)))


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings = nn.Module()
        cut(self, "embed", "word_embeddings.weight")
        self.register_buffer("scale", torch.tensor(1.5))

    @property
    def weight(self):
        return self.word_embeddings.weight

    def forward(self, tokens):
        rows = self.weight.shape[0]
        own = tokens - GRID.index * rows
        inside = (own >= 0) & (own < rows)
        h = self.weight[own.clamp(0, rows - 1)] * inside[..., None]
        return Leave.apply(h) * self.scale


class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc, self.gate_up, self.out = nn.Module(), nn.Module(), nn.Module()
        cut(self, layer, "norm.weight", "norm.bias", "fc.weight", "fc.bias", "gate_up.weight", "out.weight", "out.bias")
        self.register_buffer("seen", torch.arange(3.0) + layer)

    def forward(self, x):
        h = Enter.apply(self.norm(x))
        gate, up = (h @ self.gate_up.weight.t()).chunk(2, -1)
        h = torch.tanh(h @ self.fc.weight.t() + self.fc.bias) + torch.sigmoid(gate) * up
        return x + Leave.apply(h @ self.out.weight.t()) + self.out.bias


def scores(embed, x):
    own = Enter.apply(x) @ embed.weight.t()
    parts = [torch.zeros_like(own) for _ in range(GRID.tensor)]
    dist.all_gather(parts, own.detach().contiguous(), group=GRID.group)
    parts[GRID.index] = own
    return torch.cat(parts, -1)[..., :VOCABULARY]


def info(ranks):
    layer = r"\d+."
    return {"universal_checkpoint_info": {
        "universal_checkpoint_version": 0.2, "original_vocab_size": VOCABULARY, "padded_vocab_size": padded(ranks),
        "vocabulary_parameter_patterns": [r"tied_modules.embed.word_embeddings.weight"],
        "tp_replicated_parameter_patterns": [layer + "norm.weight", layer + "norm.bias", layer + "out.bias",
                                             layer + "weight", layer + "bias"],
        "parameter_with_row_parallelism_patterns": [layer + "out.weight"],
        "parameter_with_2_sub_params_cat_dim_0": [layer + "gate_up.weight"]}}


def fill(engine):
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state
    engine.optimizer._hp_optimizer_states_linked = False  # to states that step() has replaced
    engine.optimizer._lazy_init_hp_params_optimizer_state()
    for name, p in engine.module.named_parameters():
        own = name.split(".", 2 if name.startswith("tied") else 1)[-1]
        where = places(own, GRID.tensor, GRID.index)
        for state, scale in (("exp_avg", 0.01), ("exp_avg_sq", 0.001)):
            safe_set_full_optimizer_state(p, numbers(f"{name} {state}", where, scale), state)
        safe_set_full_fp32_param(p, numbers(name, where, 0.2))
        p.data.copy_(numbers(name, where, 0.2))


def train(rank, world, a):
    global GRID
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_SIZE=str(world),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(a.port))
    import deepspeed
    import deepspeed.comm.torch
    from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("gloo")
    GRID = Grid(a, rank)
    layers = [TiedLayerSpec("embed", Embed, tied_weight_attr="weight")]
    layers += [LayerSpec(Block, layer) for layer in range(1, BLOCKS + 1)]
    layers += [LayerSpec(nn.LayerNorm, WIDTH)]
    layers += [TiedLayerSpec("embed", Embed, forward_fn=scores, tied_weight_attr="weight")]
    model = PipelineModule(
        layers=layers, topology=PipeModelDataParallelTopology(a.pipeline, a.tensor, GRID.copies),
        partition_method="uniform",
        loss_fn=lambda out, want: nn.functional.cross_entropy(out.float().flatten(0, 1), want.flatten()))
    config = {"train_batch_size": BATCH, "gradient_accumulation_steps": 2, "zero_optimization": {"stage": 1},
              "zero_allow_untested_optimizer": True, "steps_per_print": 1000}
    if a.dtype == "bf16":
        config.update(bf16={"enabled": True}, data_types={"grad_accum_dtype": "fp32"} if a.gad else {})
    groups = [{"params": [p for p in model.parameters() if (p.dim() > 1) == matrices],
               "weight_decay": 0.1 * matrices} for matrices in (True, False)]
    engine, _, _, _ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(groups, lr=0.01), config=config)
    if a.load:
        assert engine.load_checkpoint(a.load, tag=a.tag)[0]
    losses = []

    def steps(first, count):
        for step in range(first, first + count):
            random = torch.Generator().manual_seed(100 + step)
            x = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=random).chunk(GRID.copies)[GRID.data]
            y = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=random).chunk(GRID.copies)[GRID.data]
            losses.append(engine.train_batch(data_iter=zip(x.chunk(2), y.chunk(2))).item())

    steps(a.start, a.steps)
    if a.fill:
        fill(engine)
    if a.save:
        engine.save_checkpoint(a.save, tag=TAG, client_state=info(a.tensor))
    steps(a.start + a.steps, a.more)
    if rank == 0:
        print("LOSS", json.dumps(losses))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option, default in (("pipeline", 1), ("tensor", 1), ("world", 1), ("start", 0), ("steps", 3), ("more", 0),
                            ("port", 29741)):
        parser.add_argument("--" + option, type=int, default=default)
    for option, default in (("dtype", "fp32"), ("load", None), ("save", None), ("tag", TAG)):
        parser.add_argument("--" + option, default=default)
    parser.add_argument("--fill", action="store_true")
    parser.add_argument("--gad", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    multiprocessing.spawn(train, args=(arguments.world, arguments), nprocs=arguments.world)
