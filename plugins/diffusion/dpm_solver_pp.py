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

    Lu et al. 2022, arXiv:2211.01095, alg. 2 and app. B. clean, levels: the latest first; x belongs to the first.
    then: of the next time; to a time without noise the step is of the first order, as it is from one without signal.
    """
    (_, s), (a_then, s_then) = levels[0], then
    here, there = _lambda(levels[0]), _lambda(then)
    if not math.isfinite(there) or not math.isfinite(here):
        e, order = (0.0 if here == -math.inf or there == math.inf else math.exp(here - there)), 1
    else:
        e = math.exp(here - there)
    made = s_then / s * x + a_then * (1 - e) * clean[0]
    order = min(order, len(clean))
    gaps = [_lambda(levels[k]) - _lambda(levels[k + 1]) for k in range(order - 1)]
    if order == 1 or not all(map(math.isfinite, gaps[:1])):
        return made
    h = there - here
    first = (clean[0] - clean[1]) * (h / gaps[0])
    if order == 2 or not math.isfinite(gaps[1]):
        return made + 0.5 * a_then * (1 - e) * first
    r0, r1 = gaps[0] / h, gaps[1] / h
    before = (clean[1] - clean[2]) / r1
    slope, bend = first + r0 / (r0 + r1) * (first - before), (first - before) / (r0 + r1)
    return made + a_then * ((e - 1) / h + 1) * slope - a_then * ((e - 1 + h) / (h * h) - 0.5) * bend


def _lambda(level: Level) -> float:
    """Half the logarithm of the signal-to-noise ratio."""
    a, s = level
    return math.inf if s == 0 else -math.inf if a == 0 else math.log(a / s)


@final
class DpmSolverPp(LevelSampler):
    """Several steps back at once: an exponential integrator for the predicted clean data.

    Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, the multistep solver. Works on any level process.

    steps: network calls per clip, doubled where guidance acts. order: predictions that a step looks at; the first
    steps have fewer, and the last, to time 0, is of the first order. guidance: scale of classifier-free guidance; 1 is
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
        order: Literal[1, 2, 3] = 2,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)
        self.order = order

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        walk.clean = [walk.predict(x, i).as_clean().float(), *walk.clean[: self.order - 1]]
        levels = [walk.coefficients(j) for j in range(i, max(-1, i - self.order), -1)]
        return dpm_step(x, walk.clean, levels, walk.coefficients(i + 1), self.order)
