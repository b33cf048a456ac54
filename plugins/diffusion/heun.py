"""The `heun` sampler."""

from __future__ import annotations

from typing import Annotated, final

from torch import Tensor

from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import NonNegative, Steps
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk


@final
class Heun(LevelSampler):
    """Heun's second-order method for the probability flow; the last step, to time 0, is Euler's.

    Karras et al. 2022, arXiv:2206.00364, alg. 1, in the coordinates of `euler`.

    steps: of two network calls each but the last, doubled where guidance acts; the error falls as 1/steps^2.
    guidance: scale of classifier-free guidance; 1 is none. guidance_interval: times within which it acts.
    """

    name = "heun"
    paper = "Karras et al. 2022, arXiv:2206.00364"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 13,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        (scale, tau), (scale_next, tau_next) = walk.straight(i), walk.straight(i + 1)
        y, slope = x / scale, walk.slope(x, i)
        x_next = scale_next * (y + (tau_next - tau) * slope)
        if tau_next == 0.0:
            return x_next
        # Second-order correction.
        slope_next = walk.slope(walk.pinned(x_next), i + 1)
        return scale_next * (y + (tau_next - tau) * 0.5 * (slope + slope_next))

    def called(self) -> list[float]:
        times = self.times()
        return times[:-1] + times[1:-1]
