"""What the corpus scripts do not have: more optimizers, a scheduler and client state of our own
classes. A checkpoint that holds them carries references to this module in its pickles."""

import collections
import dataclasses
import datetime

import torch


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al., 2023): one moment, the update is the sign of an interpolation."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            fast, slow = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(p)
                moment = state["exp_avg"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.sign(moment * fast + p.grad * (1 - fast)), alpha=-group["lr"])
                moment.mul_(slow).add_(p.grad, alpha=1 - slow)


class GroupStepAdam(torch.optim.Optimizer):
    """Adam that counts its steps in the param groups, as apex's and DeepSpeed's FusedAdam do."""

    def __init__(self, params, lr=1e-2, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            group["step"] = step = group.get("step", 0) + 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.lerp_(p.grad, 1 - first)
                square.mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
                root = (square / (1 - second**step)).sqrt_().add_(group["eps"])
                p.addcdiv_(mean / (1 - first**step), root, value=-group["lr"])


def _bare(groups):
    """Param groups without what the optimizer they come from added to them."""
    return [{k: v for k, v in g.items() if k in ("params", "lr", "weight_decay")} for g in groups]


def _without_decay(groups):
    return [{k: v for k, v in g.items() if k in ("params", "lr")} for g in groups]


def _muon(groups):
    """DeepSpeed's Muon for matrices and its own Adam for the rest, without naming it in the config."""
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    found = []
    for matrices in (True, False):
        parameters = [p for g in groups for p in g["params"] if (p.ndim > 1) == matrices]
        for parameter in parameters:
            parameter.use_muon = matrices
        if parameters:
            found.append({"params": parameters, "lr": 0.02 if matrices else 0.01,
                          "use_muon": matrices})
    return MuonWithAuxAdam(found)


OPTIMIZERS = {
    "muon": _muon,
    "lion": lambda groups: Lion(_bare(groups)),
    "group-step-adam": lambda groups: GroupStepAdam(_without_decay(groups)),
    "sgd-nesterov-foreach": lambda groups: torch.optim.SGD(
        _bare(groups), momentum=0.9, nesterov=True, foreach=True),
    "nadam": lambda groups: torch.optim.NAdam(_bare(groups)),
    "radam": lambda groups: torch.optim.RAdam(_bare(groups)),
    "adamax": lambda groups: torch.optim.Adamax(_bare(groups)),
    "adadelta": lambda groups: torch.optim.Adadelta(_bare(groups)),
    "asgd": lambda groups: torch.optim.ASGD(_bare(groups)),
    "rprop": lambda groups: torch.optim.Rprop(_without_decay(groups)),
    "adagrad-from-one": lambda groups: torch.optim.Adagrad(
        _bare(groups), initial_accumulator_value=1.0),
}


@dataclasses.dataclass
class Warmup:
    """The state of `WarmupThenDecay`: an object where PyTorch's schedulers keep plain values."""

    done: int
    history: collections.deque


class WarmupThenDecay:
    """A learning-rate scheduler whose state is an instance of a class of its own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.bases = [group["lr"] for group in optimizer.param_groups]
        self.state = Warmup(0, collections.deque(maxlen=2))

    def step(self):
        self.state.done += 1
        factor = min(1.0, self.state.done / 2) * 0.9**self.state.done
        self.state.history.append(factor)
        for group, base in zip(self.optimizer.param_groups, self.bases):
            group["lr"] = base * factor

    def get_last_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self):
        return {"state": self.state, "bases": self.bases}

    def load_state_dict(self, state):
        self.state, self.bases = state["state"], state["bases"]


SCHEDULERS = {"warmup-then-decay": WarmupThenDecay}


class Notes:
    """Client state with a reference cycle, `__slots__` and a `__reduce__`-free pickle."""

    __slots__ = ("owner", "words")

    def __init__(self, owner, words):
        self.owner, self.words = owner, words

    def __repr__(self):
        return f"Notes({sorted(self.words)}, own={self.owner['notes'] is self})"


def client_state():
    owner = {}
    owner["notes"] = Notes(owner, {"a", "b", "\u00e9\U0001f40d"})
    return {
        "notes": owner["notes"],
        "when": datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
        "numbers": [2**70, -1, 0.1, float("inf"), 1 + 2j, None, True, b"\x00\xff", (1, (2, ()))],
        "table": collections.Counter("abracadabra"),
        "tensors": {"view": torch.arange(12, dtype=torch.float64).view(3, 4).t()[1:],
                    "half": torch.ones(3, dtype=torch.bfloat16), "empty": torch.empty(0, 4)},
        "generator": torch.Generator().manual_seed(7).get_state()[:16],
    }


CLIENT_STATE_KEYS = {"mydata", *client_state()}
