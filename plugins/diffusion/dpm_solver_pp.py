"""The `dpm_solver_pp` sampler."""

from __future__ import annotations

import math
from typing import Annotated, Literal, final

from torch import Tensor

from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import NonNegative, Steps
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk

Level = tuple[float, float]
"""(signal, noise) of a time."""


def dpm_step(x: Tensor, clean: list[Tensor], levels: list[Level], then: Level, order: int) -> Tensor:
    """x at the next time, from the clean data predicted at this one and at those before, B N D.

    Lu et al. 2022, arXiv:2211.01095, alg. 2. clean, levels: the latest first; x belongs to the first.
    then: of the next time; to a time without noise the step is of the first order, as it is from one without signal.
    """
    (_, s), (a_then, s_then) = levels[0], then
    here, there = _lambda(levels[0]), _lambda(then)
    e = math.exp(here - there)
    order = order if math.isfinite(here - there) else 1
    made = s_then / s * x + a_then * (1 - e) * clean[0]
    if order == 1 or len(clean) == 1 or not math.isfinite(before := here - _lambda(levels[1])):
        return made
    return made + 0.5 * a_then * (1 - e) * (clean[0] - clean[1]) * ((there - here) / before)


def _lambda(level: Level) -> float:
    """Half the logarithm of the signal-to-noise ratio."""
    a, s = level
    return math.inf if s == 0 else -math.inf if a == 0 else math.log(a / s)


@final
class DpmSolverPp(LevelSampler):
    """Several steps back at once: an exponential integrator for the predicted clean data.

    Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, the multistep solver 2M. Works on any level process.

    steps: network calls per clip, doubled where guidance acts. order: predictions that a step looks at; the first
    step has but one, and the last, to time 0, is of the first order. guidance: scale of classifier-free guidance; 1 is
    none. guidance_interval: times within which it acts.
    """

    name = "dpm_solver_pp"
    paper = "Lu et al. 2022, arXiv:2211.01095"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 20,
        order: Literal[1, 2] = 2,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)
        self.order = order

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        walk.clean = [walk.predict(x, i).as_clean().float(), *walk.clean[: self.order - 1]]
        levels = [walk.coefficients(j) for j in range(i, max(-1, i - self.order), -1)]
        return dpm_step(x, walk.clean, levels, walk.coefficients(i + 1), self.order)
