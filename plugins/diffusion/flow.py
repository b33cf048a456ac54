"""The `flow` objective: rectified flow between data and noise."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Positive
from mutoscope.core.values import Example, Kind, Losses
from mutoscope.plugins.diffusion.errors import clip_means

KINDS: dict[str, Kind] = {"velocity": "flow", "clean": "clean", "noise": "noise"}
"""A recipe's word for what the network predicts, and the kind of prediction that it is."""
POWERS = {"clean": (0.0, 0.0), "halfway": (0.5, 0.0), "velocity": (1.0, 0.0), "noise": (1.0, 1.0)}
"""Error of a field = error of the clean data times t^-p (1 - t)^q, as (p, q)."""


@final
class FlowProcess(LevelProcess):
    """The straight path x = (1 - t) x0 + t eps. Liu et al. 2022, arXiv:2209.03003, sec. 2.1.

    shift: moves times towards noise, t' = shift t / (1 + (shift - 1) t), in training and sampling alike (Esser et al.
    2024, eq. 23); 1 leaves them where they are.
    """

    def __init__(self, kind: Kind = "flow", shift: float = 1.0) -> None:
        self.kind, self.shift = kind, shift

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - level, level

    def levels(self, steps: int) -> Tensor:
        """Evenly spaced before the shift. At time 1 a noise prediction says nothing of the data: there, from .99."""
        start = 0.99 if self.kind == "noise" else 1.0
        return self.shifted(torch.linspace(start, 0.0, steps + 1, dtype=torch.float64))

    def shifted(self, t: Tensor) -> Tensor:
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)


@final
class Flow(Objective):
    """Rectified flow: the network learns the straight way from noise to data.

    The loss is a weighted squared error of what is predicted, mean over each clip's tokens, then over clips. Every
    weight is one of the clean data's error: `velocity` weighs it by 1/t^2, `halfway` by 1/t, `clean` by 1 and `noise`
    by (1 - t)^2/t^2, so that, whatever the network predicts, the weight says which noise levels it cares for.

    predict: what the network gives. weight: whose error is descended, at any prediction. edge: weights count t and
    1 - t as at least this where they divide. times: how training times are drawn; `logit_normal` is
    sigmoid(mean + std n), Esser et al. 2024, arXiv:2403.03206, sec. 3.1. mean, std: of that normal. shift: moves times
    towards noise, in training and sampling (sec. 5.3.2); 1 leaves them.
    """

    name = "flow"
    paper = "Liu et al. 2022, arXiv:2209.03003"
    accepts = LevelDenoiser

    def __init__(
        self,
        *,
        predict: Literal["velocity", "clean", "noise"] = "velocity",
        weight: Literal["velocity", "halfway", "clean", "noise"] = "velocity",
        edge: Annotated[float, Gt(0.0), Lt(0.5)] = 0.05,
        times: Literal["uniform", "logit_normal"] = "uniform",
        mean: float = 0.0,
        std: Annotated[float, Ge(0.0)] = 1.0,
        shift: Positive = 1.0,
    ) -> None:
        super().__init__()
        self.predict, self.weight, self.edge = predict, weight, edge
        self.times, self.mean, self.std = times, mean, std
        self.process = FlowProcess(KINDS[predict], shift)

    def drawn_times(self, draw: Draw) -> Tensor:
        """One training time per clip, K numbers in [0, 1]."""
        if self.times == "uniform":
            t = draw.uniform("time")
        else:
            t = torch.sigmoid(self.mean + self.std * draw.normal("time"))
        return self.process.shifted(t)

    def weights(self, t: Tensor) -> Tensor:
        """The weight on the squared error of the predicted field at times t."""
        (p, q), (p_own, q_own) = POWERS[self.weight], POWERS[self.predict]
        return self._power(t, 2 * (p_own - p)) * self._power(1.0 - t, 2 * (q - q_own))

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, told = example.tokens, example.conditioning
        assert tokens is not None
        eps, t = draw.like(tokens), self.drawn_times(draw)
        noisy = self.process.noised(tokens, eps, t, told.known)
        field = self.process.predict(learner, noisy, t, told).field.float()
        x0 = tokens.filled()
        target = {"flow": eps - x0, "clean": x0, "noise": eps}[self.process.kind]
        error = clip_means((field - target).square().mean(dim=-1), tokens, told.known)
        return Losses((self.weights(t) * error).mean(), {"error": error.detach().mean()})

    def _power(self, x: Tensor, exponent: float) -> Tensor:
        return torch.ones_like(x) if exponent == 0 else (x if exponent > 0 else x.clamp(min=self.edge)) ** exponent
