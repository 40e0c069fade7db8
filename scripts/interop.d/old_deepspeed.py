"""What old DeepSpeed and PyTorch need to be imported and to train on a plain CPU.

`import old_deepspeed` comes before the first `import deepspeed`; with newer ones it does nothing.
Nothing of what such a DeepSpeed saves or loads is touched.
"""

import contextlib
import functools
import importlib.machinery
import importlib.metadata
import os
import sys
import types

import torch
import torch.distributed as dist


def _version(text):
    return tuple(int(number) for number in text.split("+")[0].split(".")[:3])


DEEPSPEED = _version(importlib.metadata.version("deepspeed"))
TORCH = _version(torch.__version__)


class _Done:
    """The handle of a collective that has been waited for."""

    def wait(self, *_):
        return True

    def is_completed(self):
        return True


class _AtOnce:
    """An event or a stream of a device that does everything at once."""

    def __init__(self, **_):
        pass

    def record(self, *_):
        pass

    wait = synchronize = wait_stream = wait_event = record

    def query(self):
        return True


def _as_bits(collective):
    """bfloat16 is handed on as bytes: nothing is computed, so every bit arrives."""

    @functools.wraps(collective)
    def handed_on(*args, **kwargs):
        return collective(*map(_bits, args), **{k: _bits(v) for k, v in kwargs.items()})

    return handed_on


def _bits(value):
    if isinstance(value, list):
        return [_bits(item) for item in value]
    return value.view(-1).view(torch.uint8) if _is_bf16(value) else value


def _is_bf16(value):
    return torch.is_tensor(value) and value.dtype == torch.bfloat16


def _as_float(collective):
    """bfloat16 is added up as float32 and rounded once."""

    @functools.wraps(collective)
    def added_up(tensor, *args, async_op=False, **kwargs):
        if not _is_bf16(tensor):
            return collective(tensor, *args, async_op=async_op, **kwargs)
        wide = tensor.float()
        collective(wide, *args, **kwargs)
        tensor.copy_(wide)
        return _Done() if async_op else None

    return added_up


def _gather_base(all_gather):
    def gathered(output_tensor, input_tensor, group=None, async_op=False):
        parts = list(output_tensor.detach().view(-1).chunk(dist.get_world_size(group)))
        return all_gather(parts, input_tensor.detach().reshape(-1), group=group, async_op=async_op)

    return gathered


def _scatter_base(all_reduce):
    def scattered(output, input, op=dist.ReduceOp.SUM, group=None, async_op=False):
        whole = input.clone()
        all_reduce(whole, op=op, group=group)
        output.copy_(whole.view(-1).chunk(dist.get_world_size(group))[dist.get_rank(group)]
                     .view(output.shape))
        return _Done() if async_op else None

    return scattered


def _in_float(function):
    """There are no kernels for float16 on the CPU: float32 in between, rounded once."""

    @functools.wraps(function)
    def computed(*args):
        wide = [a.float() if torch.is_tensor(a) and a.dtype == torch.float16 else a for a in args]
        found = function(*wide)
        return found.half() if any(a is not b for a, b in zip(args, wide)) else found

    return computed


if TORCH < (2, 3, 0):
    # gloo there: "Invalid scalar type" for bfloat16, "no support for _allgather_base".
    for _name in ("broadcast", "all_gather", "all_to_all_single"):
        setattr(dist, _name, _as_bits(getattr(dist, _name)))
    for _name in ("all_reduce", "reduce"):
        setattr(dist, _name, _as_float(getattr(dist, _name)))

    dist.all_gather_into_tensor = dist._all_gather_base = _gather_base(dist.all_gather)
    dist.reduce_scatter_tensor = dist._reduce_scatter_base = _scatter_base(dist.all_reduce)
    torch.layer_norm = _in_float(torch.layer_norm)
    torch.nn.functional.linear = _in_float(torch.nn.functional.linear)

if DEEPSPEED < (0, 19, 0):
    # The parts of the flat 16-bit buffer are gathered into it, of which PyTorch keeps a record for
    # gloo: "Output 0 of SplitBackward0 is a view and is being modified inplace".
    for _name in ("all_gather", "all_gather_into_tensor", "_all_gather_base"):
        setattr(dist, _name, torch.no_grad()(getattr(dist, _name)))
    # Else the accelerator asks numactl how many devices there are.
    os.environ.setdefault("LOCAL_SIZE", "1")

if DEEPSPEED < (0, 14, 0):
    # accelerator/real_accelerator.py and accelerator/cpu_accelerator.py import both, for Intel's
    # collectives and kernels; the ranks talk through gloo, and nothing else of them is called.
    for _name in ("intel_extension_for_pytorch", "oneccl_bindings_for_pytorch"):
        _module = types.ModuleType(_name)
        _module.__spec__ = importlib.machinery.ModuleSpec(_name, None)
        sys.modules.setdefault(_name, _module)
    from deepspeed.accelerator import get_accelerator

    # Else comm/comm.py compiles a module that needs Intel's oneCCL, whatever init_distributed names.
    get_accelerator()._communication_backend_name = "gloo"
    # runtime/zero/stage_1_and_2.py and stage3.py call them, and there they are None.
    _accelerator = type(get_accelerator())
    _accelerator.Event = _accelerator.Stream = _AtOnce
    _accelerator.stream = lambda *_: contextlib.nullcontext()
    _accelerator.current_stream = _accelerator.default_stream = lambda *_: _AtOnce()
    torch.Tensor.record_stream = lambda *_: None
    # runtime/zero/stage3.py asks it for counts of CUDA's allocator.
    _accelerator.memory_stats = lambda *_: {"num_alloc_retries": 0}

if DEEPSPEED < (0, 19, 0):
    from deepspeed.moe import sharded_moe

    # Else topk raises where an expert may take more tokens than a rank has.
    sharded_moe._top_idx = lambda source, k: torch.topk(source, min(int(k), len(source)), dim=0)[1]
