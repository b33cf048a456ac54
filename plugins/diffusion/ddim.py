"""The `ddim` sampler."""

from __future__ import annotations

from typing import Annotated, final

from torch import Tensor

from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import NonNegative, Share, Steps
from mutoscope.core.values import Prediction
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk, posterior


def ddim_step(
    prediction: Prediction, now: tuple[float, float], then: tuple[float, float], eta: float, z: Tensor | None
) -> Tensor:
    """x at the next time from the prediction at this one, B N D. Song et al. 2021, eq. 12.

    now, then: (signal, noise) of the two times. eta: noise put back, as a share of the posterior's deviation (eq. 16).
    z: that noise; None for none.
    """
    a, s = then
    x0, eps = prediction.as_clean(), prediction.as_noise()
    if z is None or eta == 0.0:
        return a * x0 + s * eps
    sigma = min(eta * posterior(now, then).variance ** 0.5, s)
    return a * x0 + (s * s - sigma * sigma) ** 0.5 * eps + sigma * z


@final
class Ddim(LevelSampler):
    """Jumps over steps by the clean data and the noise that the network sees.

    Song et al. 2021, "Denoising diffusion implicit models", sec. 4. Works on any level process.

    steps: network calls per clip, doubled where guidance acts. eta: 0 is deterministic, 1 puts as much noise back as
    `ancestral`. guidance: scale of classifier-free guidance; 1 is none. guidance_interval: times within which it acts.
    """

    name = "ddim"
    paper = "Song et al. 2021, arXiv:2010.02502"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 50,
        eta: Share = 0.0,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)
        self.eta = eta

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        last = i + 1 == self.steps
        z = None if last or self.eta == 0.0 else walk.fresh(i)
        return ddim_step(walk.predict(x, i), walk.coefficients(i), walk.coefficients(i + 1), self.eta, z)
