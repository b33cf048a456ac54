"""The `ancestral` sampler."""

from __future__ import annotations

import math
from typing import Annotated, Literal, final

from torch import Tensor

from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import NonNegative, Steps
from mutoscope.core.values import Prediction
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk, posterior

Variance = Literal["large", "small"]


def ancestral_step(
    prediction: Prediction,
    now: tuple[float, float],
    then: tuple[float, float],
    variance: Variance,
    clip_clean: float,
    z: Tensor | None,
) -> Tensor:
    """x at the next time from the prediction at this one, B N D. Ho et al. 2020, alg. 2 with eq. 7.

    now, then: (signal, noise) of the two times. variance, clip_clean: as in `Ancestral`. z: fresh noise; None for the
    mean. A variance that the network has learned takes the place of the fixed one.
    """
    x0 = prediction.as_clean()
    if clip_clean > 0:
        x0 = x0.clamp(-clip_clean, clip_clean)
    q = posterior(now, then)
    mean = q.of_clean * x0 + q.of_noisy * prediction.at
    if z is None:
        return mean
    spread = step_variance(prediction, now, then, variance)
    return mean + (spread.sqrt() if isinstance(spread, Tensor) else math.sqrt(spread)) * z


def step_variance(
    prediction: Prediction, now: tuple[float, float], then: tuple[float, float], variance: Variance
) -> Tensor | float:
    """The variance of a step: what the network has learned, else the fixed one. B N D or a number."""
    if prediction.log_variance is not None:
        return prediction.log_variance.float().exp()
    q = posterior(now, then)
    if prediction.share is not None and q.variance > 0:
        low, high = math.log(q.variance), math.log(q.forward)
        return (low + (high - low) * prediction.share.float()).exp()
    return q.forward if variance == "large" else q.variance


@final
class Ancestral(LevelSampler):
    """Draws each step from the reverse chain: the posterior mean of the predicted clean data, and fresh noise.

    Ho et al. 2020, alg. 2; over fewer steps, the chain of Nichol & Dhariwal 2021, sec. 4. Works on any level process.

    steps: network calls per clip, doubled where guidance acts. variance: of the fresh noise; `large` is what the
    forward step adds (beta), `small` the posterior's (beta~). clip_clean: largest absolute value that the predicted
    clean data may have, 1 for pixels as in the paper; 0 is no bound. guidance: scale of classifier-free guidance; 1 is
    none. guidance_interval: times within which it acts.
    """

    name = "ancestral"
    paper = "Ho et al. 2020, arXiv:2006.11239"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 250,
        variance: Variance = "small",
        clip_clean: NonNegative = 0.0,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)
        self.variance: Variance = variance
        self.clip_clean = clip_clean

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        z = None if i + 1 == self.steps else walk.fresh(i)
        return ancestral_step(
            walk.predict(x, i), walk.coefficients(i), walk.coefficients(i + 1), self.variance, self.clip_clean, z
        )
