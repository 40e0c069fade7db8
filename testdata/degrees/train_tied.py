"""Trains a pipeline whose embedding is its output layer too, at ZeRO-1 on the CPU.

  train_tied.py --stages S --save DIR                 three steps, then a checkpoint
  train_tied.py --stages S --load DIR --save DIR      the checkpoint, loaded and saved again
"""

import argparse
import os
import sys

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.multiprocessing as multiprocessing
import torch.nn as nn

VOCABULARY, WIDTH, BLOCKS, BATCH, LENGTH, TAG = 13, 6, 5, 8, 4, "global_step3"


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.register_buffer("scale", torch.tensor(1.5))

    @property
    def weight(self):
        return self.table.weight

    def forward(self, tokens):
        return self.table(tokens) * self.scale


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.tanh(self.fc(self.norm(x)))


def scores(tied, x):
    return x @ tied.weight.t()


def train(rank, args):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(args.stages),
                      LOCAL_SIZE=str(args.stages), MASTER_ADDR="127.0.0.1", MASTER_PORT="29733")
    import deepspeed
    import deepspeed.comm.torch
    from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("gloo")
    torch.manual_seed(3)
    layers = [TiedLayerSpec("embed", Tied, tied_weight_attr="weight")]
    layers += [LayerSpec(Block) for _ in range(BLOCKS)]
    layers += [TiedLayerSpec("embed", Tied, forward_fn=scores, tied_weight_attr="weight")]
    model = PipelineModule(
        layers=layers, num_stages=args.stages, partition_method="uniform",
        loss_fn=lambda out, want: nn.functional.cross_entropy(out.flatten(0, 1), want.flatten()))
    config = {"train_batch_size": BATCH, "train_micro_batch_size_per_gpu": BATCH // 2,
              "gradient_accumulation_steps": 2, "zero_optimization": {"stage": 1},
              "zero_allow_untested_optimizer": True, "steps_per_print": 1000}
    engine, _, _, _ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.01), config=config)
    if args.load:
        assert engine.load_checkpoint(args.load, tag=TAG)[0]
    for step in range(0 if args.load else 3):
        random = torch.Generator().manual_seed(100 + step)
        x = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=random)
        y = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=random)
        engine.train_batch(data_iter=zip(x.chunk(2), y.chunk(2)))
    engine.save_checkpoint(args.save, tag=TAG)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", type=int, required=True)
    parser.add_argument("--load")
    parser.add_argument("--save", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    multiprocessing.spawn(train, args=(arguments,), nprocs=arguments.stages)
