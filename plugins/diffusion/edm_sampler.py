"""The `edm` sampler."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, final

from torch import Tensor

from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import NonNegative, Steps
from mutoscope.plugins.diffusion.ratios import level_at, ratio_at, time_of
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk

MOST = math.sqrt(2.0) - 1.0
"""The largest share by which churn raises sigma in one step."""


@final
class EdmSampler(LevelSampler):
    """Heun's method in x / a, where the noise is sigma = s / a, with some noise put back before each step.

    Karras et al. 2022, alg. 2, arXiv:2206.00364; without churn alg. 1. Works on any level process; where there is no
    signal at all, the first step is Euler's.

    steps: N, of 2N - 1 network calls, doubled where guidance acts. churn: S_churn, how much noise is put back over all
    steps; 0 is deterministic. churn_between: sigmas (S_min, S_max) between which that happens. churn_noise: S_noise,
    deviation of what is put back. guidance: scale of classifier-free guidance; 1 is none. guidance_interval: times
    within which it acts.
    """

    name = "edm"
    paper = "Karras et al. 2022, arXiv:2206.00364"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 18,
        churn: NonNegative = 0.0,
        churn_between: tuple[NonNegative, NonNegative] = (0.0, 1e9),
        churn_noise: NonNegative = 1.0,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)
        self.churn, self.churn_between, self.churn_noise = churn, churn_between, churn_noise
        self.raised = [self._raised(time) for time in self.times()[:-1]]

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        (a, s), time = walk.coefficients(i), walk.times[i]
        if (raised := self.raised[i]) > time:
            # Increase noise temporarily.
            sigma, x = s / a, x / a
            (a, s), time = level_at(self.process, raised), raised
            added = math.sqrt((s / a) ** 2 - sigma**2) * self.churn_noise
            x = walk.pinned(a * (x + added * walk.fresh(i)))
        said = walk.guided.predict(walk.canvas.with_values(x), time)
        x0, eps = said.as_clean().float(), said.as_noise().float()
        a_next, s_next = walk.coefficients(i + 1)
        # Euler step.
        x_next = a_next * x0 + s_next * eps
        if s_next == 0.0 or a == 0.0:
            return x_next
        # Second-order correction.
        other = walk.predict(walk.pinned(x_next), i + 1).as_noise().float()
        return a_next * (x0 + s / a * eps + (s_next / a_next - s / a) * 0.5 * (eps + other))

    def called(self) -> list[float]:
        steps = pairwise(self.times())
        ratios = [(then, ratio_at(self.process, now), ratio_at(self.process, then)) for now, then in steps]
        return [*self.raised, *(then for then, before, after in ratios if after > 0 and math.isfinite(before))]

    def _raised(self, time: float) -> float:
        """The time to which churn takes a step's beginning."""
        sigma = ratio_at(self.process, time)
        low, high = self.churn_between
        if self.churn == 0.0 or not (low <= sigma <= high) or not math.isfinite(sigma):
            return time
        return max(time, time_of(self.process, sigma * (1 + min(self.churn / self.steps, MOST))))
