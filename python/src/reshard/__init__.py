"""Go on with a DeepSpeed training run on another number of GPUs.

    import reshard

    path = reshard.ensure("ckpt", world_size=8)
    engine.load_checkpoint(path)

Everything here runs the command ``reshard``, a Java program that comes with this package; no tensor
passes through Python, and neither PyTorch nor DeepSpeed is needed.
"""

from ._api import Verdict, doctor, ensure, export, inspect, reshard, verify
from ._errors import OutputError, Refused, ReshardError, UsageError
from ._program import version

for _error in (OutputError, Refused, ReshardError, UsageError):
    # As users write it, and so a traceback does.
    _error.__module__ = __name__

__all__ = [
    "OutputError",
    "Refused",
    "ReshardError",
    "UsageError",
    "Verdict",
    "doctor",
    "ensure",
    "export",
    "inspect",
    "reshard",
    "verify",
    "version",
]
