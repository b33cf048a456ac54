"""The `continuous` objective: velocity at any time of a cosine path."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.layers.means import clip_means
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses


@final
class CosineProcess(LevelProcess):
    """x = a x0 + s eps with a = cos(pi t / 2) and s = sin(pi t / 2); the network gives v = a eps - s x0.

    Ho et al. 2022, sec. 2.1, arXiv:2210.02303; Salimans & Ho 2022, sec. 4 and app. D, arXiv:2202.00512: x and v turn
    with the angle, so that x0 = a x - s v and eps = s x + a v.
    """

    kind = "velocity"

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        angle = level * (math.pi / 2)
        return angle.cos(), angle.sin()


@final
class Continuous(Objective):
    """Velocity prediction in continuous time, under a cosine schedule. Imagen Video's objective, all stages alike.

    Times are drawn evenly; the error is of the velocity, mean over each clip's tokens, then over clips, which weighs
    the error of the clean data by 1 + SNR.
    """

    name = "continuous"
    paper = "Salimans & Ho 2022, arXiv:2202.00512"
    accepts = LevelDenoiser

    def __init__(self) -> None:
        super().__init__()
        self.process = CosineProcess()

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, told = example.tokens, example.conditioning
        assert tokens is not None
        x0, eps, level = tokens.filled(), draw.like(tokens), draw.uniform("time").view(-1)
        noisy = self.process.noised(tokens, eps, level, told.known)
        field = self.process.predict(learner, noisy, level, told).field.float()
        a, s = self.process.per_token(tokens, level)
        error = clip_means((field - (a * eps - s * x0)).square().mean(dim=-1), tokens, told.known).mean()
        return Losses(error, {"error": error.detach()})
