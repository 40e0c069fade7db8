"""A tiny Llama, GPT-2 or T5 of Transformers under DeepSpeed: a checkpoint with its configuration,
and beside it what save_pretrained writes of the same weights and the logits of a fixed input."""

import argparse
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import train


def model_of(name, tied):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
    from transformers import T5Config, T5ForConditionalGeneration

    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=37, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
            max_position_embeddings=32))
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=37, n_positions=8, n_embd=24, n_layer=2, n_head=2, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
    return T5ForConditionalGeneration(T5Config(
        vocab_size=37, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0))


def adapted(model, tied):
    """The model with LoRA adapters, and with an output layer of their own where none is tied."""
    import peft

    gpt2 = "GPT2" in type(model).__name__
    return peft.get_peft_model(model, peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", fan_in_fan_out=gpt2,
        init_lora_weights=False, target_modules=["c_attn"] if gpt2 else ["q_proj", "v_proj"],
        modules_to_save=None if tied else ["lm_head"]))


def logits(model):
    words = torch.arange(8).reshape(1, 8)
    model.eval()
    with torch.no_grad():
        return model(input_ids=words, labels=words).logits


def run(rank, world, a):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(a.port), HF_HUB_OFFLINE="1")
    import deepspeed

    train.cpu_only()
    deepspeed.init_distributed("gloo")
    torch.manual_seed(1)
    model = model_of(a.model, not a.untied)
    if a.lora:
        if rank == 0:
            model.to(torch.bfloat16).save_pretrained(os.path.join(a.reference, "base"))
        model = adapted(model, not a.untied)
    if a.freeze:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "layers.0." not in name and ".h.0." not in name
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": a.stage},
              "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
              "steps_per_print": 1000}
    if a.dtype == "bf16":
        config["bf16"] = {"enabled": True}
    if a.gad:
        config["data_types"] = {"grad_accum_dtype": a.gad}
    trained = [p for p in model.parameters() if p.requires_grad]
    engine = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(trained, lr=1e-2), config=config)[0]
    for step in range(3):
        words = torch.randint(0, 37, (2, 8), generator=torch.Generator().manual_seed(10 * step + rank))
        engine.backward(engine(input_ids=words, labels=words).loss)
        engine.step()
    engine.save_checkpoint(a.save, exclude_frozen_parameters=a.exclude)
    found = logits(engine)
    parameters = list(engine.module.parameters())
    gathered = deepspeed.zero.GatheredParameters(parameters if a.stage == 3 else [], modifier_rank=None)
    with gathered:
        if rank == 0:
            # A model of its own: huggingface_hub takes DeepSpeed's views of one flat buffer for
            # tensors that are tied, and splits them otherwise.
            own = model_of(a.model, not a.untied)
            if a.lora:
                own = adapted(own, not a.untied)
            own.to(parameters[0].dtype).load_state_dict(engine.module.state_dict())
            (own.peft_config["default"] if a.lora else own.config).save_pretrained(a.save)
            own.save_pretrained(a.reference, max_shard_size=a.shard)
            torch.save(found, os.path.join(a.reference, "logits.pt"))
    dist.barrier()


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    for option, kind, default in [("world", int, 2), ("stage", int, 2), ("model", str, "llama"),
                                  ("dtype", str, "bf16"), ("gad", str, None), ("shard", int, 5 * 10**9),
                                  ("port", int, 29571), ("save", str, None),
                                  ("reference", str, None)]:
        p.add_argument(f"--{option}", type=kind, default=default)
    p.add_argument("--untied", action="store_true")
    p.add_argument("--freeze", action="store_true")
    p.add_argument("--lora", action="store_true")
    p.add_argument("--exclude", action="store_true", help="save without frozen parameters")
    a = p.parse_args()
    mp.spawn(run, args=(a.world, a), nprocs=a.world)
