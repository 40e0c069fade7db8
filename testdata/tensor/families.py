"""How AutoTP of real DeepSpeed cuts tiny models of common families of Transformers, as families.json: for each
the names that it publishes in universal_checkpoint_info, and the shapes on two ranks. See README.md."""

import json
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SMALL = dict(vocab_size=38, hidden_size=32, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4)
GROUPED = dict(SMALL, num_key_value_heads=2)
FAMILIES = {
    "llama": ("Llama", GROUPED), "mistral": ("Mistral", GROUPED), "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", dict(GROUPED, head_dim=8)), "gemma2": ("Gemma2", dict(GROUPED, head_dim=8)),
    "opt": ("OPT", dict(vocab_size=38, hidden_size=32, ffn_dim=24, num_hidden_layers=1, num_attention_heads=4,
                        word_embed_proj_dim=32)),
    "gpt_neox": ("GPTNeoX", SMALL), "phi3": ("Phi3", dict(GROUPED, pad_token_id=0)),
    "bloom": ("Bloom", dict(vocab_size=38, hidden_size=32, n_layer=1, n_head=4)),
    "falcon": ("Falcon", dict(vocab_size=38, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)),
    "gpt2": ("GPT2", dict(vocab_size=38, n_embd=32, n_layer=1, n_head=4)),
}


def run(rank, world, out, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port), LOCAL_SIZE=str(world))
    import deepspeed
    import transformers
    from train_tensor import cpu_only
    cpu_only()
    deepspeed.init_distributed("gloo")
    found = {}
    for name, (kind, arguments) in FAMILIES.items():
        torch.manual_seed(3)
        of = {}
        try:
            config = getattr(transformers, kind + "Config")(**arguments)
            net = getattr(transformers, kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM"))(config)
            of["full"] = {n: list(p.shape) for n, p in net.named_parameters()}
            engine = deepspeed.initialize(model=net, config={
                "train_micro_batch_size_per_gpu": 1, "tensor_parallel": {"autotp_size": world}})[0]
            shapes = [None] * world
            dist.all_gather_object(shapes, {n: list(p.shape) for n, p in engine.module.named_parameters()})
            info = dict(engine.module.universal_checkpoint_info)
            info.pop("affine_map", None)
            of.update(ranks=shapes, info=info)
        except Exception as error:
            of["refused"] = f"{type(error).__name__}: {error}"[:200]
        found[name] = of
    if rank == 0:
        with open(out, "w") as file:
            json.dump({"transformers": transformers.__version__, "deepspeed": deepspeed.__version__,
                       "families": found}, file, indent=1)


if __name__ == "__main__":
    mp.spawn(run, args=(2, sys.argv[1], 29777), nprocs=2)
