"""What a training run holds in memory at the moment it saves or has loaded a checkpoint.

The training scripts know nothing of this: `observe` wraps `deepspeed.initialize`, so that the
engine it returns writes a snapshot just before its first `save_checkpoint` and just after
`load_checkpoint`.
A snapshot is taken through DeepSpeed's own in-memory calls, independent of the files. On the way a
case may ask for another optimizer, more configuration, a scheduler or a client state.
"""

import json
import os

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import groups as parallel_groups
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from safetensors.torch import save_file

import extras

_initialize = deepspeed.initialize


def observe(case, directory):
    """Makes every engine of this process write its snapshots to `directory`."""

    def initialize(*args, **kwargs):
        if case.config:
            kwargs["config"] = _merged(kwargs["config"], case.config)
        if case.optimizer:
            kwargs["optimizer"] = extras.OPTIMIZERS[case.optimizer](kwargs["optimizer"].param_groups)
        if case.scheduler:
            kwargs["lr_scheduler"] = extras.SCHEDULERS[case.scheduler](kwargs["optimizer"])
        engine, *rest = _initialize(*args, **kwargs)
        _watch(engine, case, directory)
        return (engine, *rest)

    deepspeed.initialize = initialize


def _merged(config, more):
    merged = dict(config)
    for key, value in more.items():
        known = merged.get(key)
        both = isinstance(value, dict) and isinstance(known, dict)
        merged[key] = _merged(known, value) if both else value
    return merged


def _watch(engine, case, directory):
    save, load = engine.save_checkpoint, engine.load_checkpoint

    def save_checkpoint(save_dir, tag=None, client_state={}, **kwargs):
        if case.client_state:
            client_state = {**client_state, **extras.client_state()}
        if not os.path.exists(os.path.join(directory, f"saved-{dist.get_rank()}.json")):
            _write(engine, client_state, os.path.join(directory, "saved"))
        return save(save_dir, tag=tag, client_state=client_state, **kwargs)

    def load_checkpoint(load_dir, *args, **kwargs):
        path, client_state = load(load_dir, *args, **kwargs)
        if path is not None:
            _write(engine, client_state or {}, os.path.join(directory, "loaded"))
        return path, client_state

    engine.save_checkpoint, engine.load_checkpoint = save_checkpoint, load_checkpoint
    # For scripts that save and load without these two; `phase` is "saved" or "loaded".
    engine.observe = lambda phase: _write(engine, {}, os.path.join(directory, phase))


def _write(engine, client_state, prefix):
    tensors = {key: value for key, value in _tensors(engine).items() if value is not None}
    flat = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    save_file(flat, f"{prefix}-{dist.get_rank()}.safetensors")
    with open(f"{prefix}-{dist.get_rank()}.json", "w") as out:
        json.dump(_facts(engine, client_state), out, indent=1, sort_keys=True)


def _tensors(engine):
    """Every parameter's master weights, optimizer states and module weights, and every buffer, in
    full shape. Keys carry the model-parallel rank, and for experts the expert-parallel rank,
    because names alone mean different parameters on different ranks."""
    optimizer = engine.optimizer
    named = list(engine.module.named_parameters())
    if getattr(optimizer, "round_robin_gradients", False):
        states = _round_robin_states(optimizer, {id(p): name for name, p in named})
    else:
        states = _states(optimizer, named)
    for name, momentum in _muon_momentum(optimizer, named).items():
        states[name]["momentum_buffer"] = momentum
    found = {}
    for name, parameter in named:
        identity = _identity(engine, name, parameter)
        for key, value in states.get(name, {}).items():
            found[f"{identity}|{key}"] = value
        found[f"{identity}|module"] = _module_weight(parameter)
    for name, buffer in engine.module.named_buffers():
        found[f"mp{_model_parallel_rank(engine)}|{name}|buffer"] = buffer
    return found


def _identity(engine, name, parameter):
    expert = ""
    if getattr(parameter, "allreduce", True) is False:
        expert = f"ep{parallel_groups._get_expert_parallel_rank(parameter.group_name)}|"
    return f"mp{_model_parallel_rank(engine)}|{expert}{name}"


def _model_parallel_rank(engine):
    try:
        return engine.checkpoint_mp_rank
    except AttributeError:  # before DeepSpeed 0.19
        return 0 if engine.mpu is None else engine.mpu.get_model_parallel_rank()


def _module_weight(parameter):
    if not hasattr(parameter, "ds_id"):
        return parameter.data
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.data.clone()


def _states(optimizer, named):
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        # Links made before a load, or before the first step, miss states that exist by now.
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()
    keys = sorted(
        {key for state in optimizer.optimizer.state.values()
         for key, value in state.items() if torch.is_tensor(value) and value.dim() > 0})
    if _uses_muon(optimizer):
        keys = ["exp_avg", "exp_avg_sq"]
    states = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        states[name] = {"fp32": safe_get_full_fp32_param(parameter)}
        for key in keys if not getattr(parameter, "use_muon", False) else []:
            states[name][key] = safe_get_full_optimizer_state(parameter, key)
    return states


def _uses_muon(optimizer):
    return any(group.get("use_muon", False) for group in optimizer.optimizer.param_groups)


def _muon_momentum(optimizer, named):
    """Muon's momentum lies end to end, whole, on every rank that has any of a parameter, which is
    not where the safe_get_full_* calls look."""
    if not _uses_muon(optimizer):
        return {}
    names = {id(parameter): name for name, parameter in named}
    mine = {}
    for index, parameters in enumerate(optimizer.params_in_partition):
        state = optimizer.optimizer.state.get(optimizer.single_partition_of_fp32_groups[index], {})
        if not optimizer.optimizer.param_groups[index]["use_muon"] or "momentum_buffer" not in state:
            continue
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, state["momentum_buffer"].split(sizes)):
            mine[names[id(parameter)]] = part.detach().view(parameter.shape).clone()
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    momentum = {}
    for of_rank in everyones:
        for name, found in of_rank.items():
            if not torch.equal(momentum.setdefault(name, found), found):
                raise AssertionError(f"ranks disagree on the momentum of {name}")
    return momentum


def _round_robin_states(optimizer, names):
    """Under `round_robin_gradients` the safe_get_full_* calls read through DeepSpeed's wrong
    parameter mappings, so the flat partitions are joined and cut in their true order here."""
    states = {}
    for index, parameters in enumerate(optimizer.round_robin_bit16_groups):
        partition = optimizer.single_partition_of_fp32_groups[index]
        group = optimizer.real_dp_process_group[index]
        flat = {"fp32": _gathered(partition, group)}
        for key, value in optimizer.optimizer.state[partition].items():
            if torch.is_tensor(value) and value.shape == partition.shape:
                flat[key] = _gathered(value, group)
        start = 0
        for parameter in parameters:
            states[names[id(parameter)]] = {
                key: value[start:start + parameter.numel()].view(parameter.shape)
                for key, value in flat.items()
            }
            start += parameter.numel()
    return states


def _gathered(partition, group):
    parts = [torch.empty_like(partition) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, partition.detach().contiguous(), group=group)
    return torch.cat(parts)


def _facts(engine, client_state):
    """What is not a large tensor, as text, so that it compares exactly."""
    optimizer = engine.optimizer
    inner = optimizer.optimizer
    hyper = [{k: repr(v) for k, v in g.items() if k != "params"} for g in inner.param_groups]
    scalars = []
    for index, group in enumerate(inner.param_groups):
        # ZeRO-3 cuts a group into sub-groups, whose number depends on the number of ranks, and puts
        # them into `params` only while it steps.
        parameters = group["params"]
        if hasattr(optimizer, "sub_group_to_group_id"):
            parameters = [flat for i, flat in enumerate(optimizer.fp32_partitioned_groups_flat)
                          if optimizer.sub_group_to_group_id[i] == index]
        distinct = []
        for parameter in parameters:
            state = inner.state.get(parameter, {})
            found = {k: repr(v) for k, v in sorted(state.items())
                     if not torch.is_tensor(v) or v.dim() == 0}
            if found not in distinct:
                distinct.append(found)
        scalars.append(distinct)
    scaler = getattr(optimizer, "loss_scaler", None)
    if scaler is not None and not scaler.dynamic and scaler.cur_scale == 1:
        scaler = None  # BF16_Optimizer has none, the others one that does nothing
    ours = {k: v for k, v in client_state.items() if k in extras.CLIENT_STATE_KEYS}
    return {
        "param_groups": hyper,
        "scalar states": scalars,
        "loss scaler": {k: repr(v) for k, v in vars(scaler).items()} if scaler else None,
        "scheduler": repr(engine.lr_scheduler.state_dict()) if engine.lr_scheduler else None,
        "global steps": engine.global_steps,
        "global samples": engine.global_samples,
        "skipped steps": engine.skipped_steps,
        "client state": {k: repr(v) for k, v in ours.items()},
    }
