"""The `euler` sampler."""

from __future__ import annotations

from typing import Annotated, final

from torch import Tensor

from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import NonNegative, Steps
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk


@final
class Euler(LevelSampler):
    """Euler's method for the probability flow, in coordinates where a straight path is one step.

    Song et al. 2021, arXiv:2011.13456, eq. 13. On a variance-preserving process this is DDIM without noise.

    steps: network calls per clip, doubled where guidance acts; the error falls as 1/steps. guidance: scale of
    classifier-free guidance; 1 is none. guidance_interval: times within which it acts.
    """

    name = "euler"
    paper = "Song et al. 2021, arXiv:2011.13456"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 25,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        (scale, tau), (scale_next, tau_next) = walk.straight(i), walk.straight(i + 1)
        return scale_next * (x / scale + (tau_next - tau) * walk.slope(x, i))
