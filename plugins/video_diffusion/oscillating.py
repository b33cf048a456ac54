"""The `oscillating` sampler: strong guidance at first, then by turns with none, and a bound on what is predicted."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Additive, LatentFact, TokenFact
from mutoscope.core.guidance import Guided
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Natural, NonNegative, Share, Steps
from mutoscope.core.values import Conditioning, Prediction, Tokens
from mutoscope.plugins.video_diffusion.stepping import pinned, posterior_deviation, times_of


@final
class Oscillating(Sampler):
    """Steps back under guidance that oscillates, with dynamic thresholding. Ho et al. 2022, sec. 2.3 and 2.8.

    The first `constant` steps have the strong guidance; after them steps of weak and strong guidance alternate, as
    strong guidance throughout oversaturates. The paper has it in the base and the first two stages that enlarge, and
    guidance that does not oscillate in the others: `constant` as large as `steps`. The clean data is bounded by the
    quantile `threshold` of each clip's own absolute values, where that is over 1, and divided by it (Saharia et al.
    2022, sec. 2.3, arXiv:2205.11487), in pixels where the latents are pixels.

    steps: network calls per clip, twice as many where guidance acts. guidance, weak: scales, 1 + w in the paper's
    words; 1 is none. constant: steps at first. threshold: 0 bounds nothing. eta: noise put back, as a share of the
    posterior's deviation (Song et al. 2021, eq. 16, arXiv:2010.02502); 1 is the ancestral sampler, 0 deterministic.
    """

    name = "oscillating"
    paper = "Ho et al. 2022, arXiv:2210.02303"
    accepts = LevelDenoiser

    def __init__(
        self,
        latents: LatentFact,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 50,
        guidance: NonNegative = 16.0,
        weak: NonNegative = 2.0,
        constant: Natural = 10,
        threshold: Share = 0.995,
        eta: Share = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.process, self.steps = tokens.width, process, steps
        self.guidance, self.weak, self.constant, self.threshold, self.eta = guidance, weak, constant, threshold, eta
        self.pixels = latents.pixels or (0.0, 1.0)
        times_of(process, steps)

    def scales(self) -> list[float]:
        """The scale of every step."""
        strong = [i < self.constant or (i - self.constant) % 2 == 1 for i in range(self.steps)]
        return [self.guidance if s else self.weak for s in strong]

    def calls(self, canvas: Tokens) -> int:
        return sum(1 if scale in (0.0, 1.0) else 2 for scale in self.scales())

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        guided = {s: Guided(self.process, denoiser, conditioning, s) for s in dict.fromkeys(self.scales())}
        times, coefficients = times_of(self.process, self.steps)
        (a, s), known = coefficients[0], conditioning.known
        x = pinned(draw.like(canvas, width=self.width) * (a * a + s * s) ** 0.5, known)
        said: Prediction | None = None
        for i, scale in enumerate(self.scales()):
            said = guided[scale].predict(canvas.with_values(x), times[i], said)
            clean = self.bounded(said.as_clean().float(), canvas)
            now, then = coefficients[i], coefficients[i + 1]
            eps = (said.at - now[0] * clean) / now[1]
            sigma = posterior_deviation(now, then) * self.eta
            x = then[0] * clean + max(then[1] ** 2 - sigma**2, 0.0) ** 0.5 * eps
            if sigma > 0:
                x = x + sigma * draw.at(i).like(canvas, width=self.width)
            x = pinned(x, known)
        return canvas.with_values(x)

    def bounded(self, clean: Tensor, canvas: Tokens) -> Tensor:
        """The clean data, B N D, within the range of pixels by its own quantile, clip by clip."""
        if self.threshold == 0:
            return clean
        shift, scale = self.pixels
        pixels = clean / scale + shift
        if canvas.regular:
            most = torch.quantile(pixels.abs().flatten(1), self.threshold, dim=1)
        else:
            clips = range(1, len(canvas) + 1)
            most = torch.stack([torch.quantile(pixels[canvas.clip == k].abs(), self.threshold) for k in clips])
        bound = canvas.per_token(most.clamp(min=1.0))[..., None]
        return (pixels.clamp(-bound, bound) / bound - shift) * scale
