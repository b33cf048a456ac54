"""Learning rates, optimizers and averaged weights: functions of the step, or state that a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mutoscope.core.errors import InputError
from mutoscope.core.training.plan import Descent


def learning_rate(descent: Descent, step: int) -> float:
    """The rate of step 0, 1, ...: a linear warm-up, then the schedule down to `floor` at the last step."""
    if step < descent.warmup:
        return descent.lr * (step + 1) / descent.warmup
    span = max(1, (descent.steps or 1) - descent.warmup)
    done = min(1.0, (step - descent.warmup) / span)
    match descent.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = descent.floor + (1 - descent.floor) * (1 - done)
        case "cosine":
            share = descent.floor + (1 - descent.floor) * 0.5 * (1 + math.cos(math.pi * done))
        case "rsqrt":
            share = math.sqrt(max(1, descent.warmup) / (step + 1))
    return descent.lr * share


def make_optimizer(descent: Descent, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW fused, or any optimizer that timm knows by name. Weight decay spares vectors (norms and biases).

    Raises InputError on an unknown name.
    """
    learned = list(parameters)
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": descent.weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if descent.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=descent.lr, betas=descent.betas, fused=True)
    import timm.optim

    try:
        return timm.optim.create_optimizer_v2(groups, opt=descent.optimizer, lr=descent.lr, betas=descent.betas)
    except (ValueError, KeyError) as unknown:
        known = ["adamw", *timm.optim.list_optimizers()]
        raise InputError(
            field="training.optimizer", problem="unknown optimizer", got=descent.optimizer, allowed=known
        ) from unknown


class Average:
    """Exponential moving average of weights, kept in float32 beside them.

    The decay of update n (counted from 1) is min(ema, n / (ema_warmup + n)), so that early averages are not stuck to
    the initial weights.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], descent: Descent) -> None:
        self.parameters = list(parameters)
        self.decay, self.warmup = descent.ema, descent.ema_warmup
        self.count = 0
        self.weights = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = min(self.decay, self.count / (self.warmup + self.count))
        torch._foreach_lerp_(self.weights, [p.detach() for p in self.parameters], 1.0 - decay)

    @torch.no_grad()
    def install(self) -> None:
        """Copies the average into the model; the raw weights are gone."""
        for parameter, weight in zip(self.parameters, self.weights, strict=True):
            parameter.copy_(weight)


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scales gradients to a norm of at most `largest` (0: any); gives the norm before, as a tensor."""
    return nn.utils.clip_grad_norm_(parameters, largest or math.inf)
