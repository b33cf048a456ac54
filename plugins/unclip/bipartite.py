"""The `bipartite` sampler: from noise, or from what a source leaves when its embedding is taken out."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Additive, LatentFact, TokenFact
from mutoscope.core.guidance import Guided, calls_at
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import NonNegative, Share, Steps
from mutoscope.core.values import Conditioning, Tokens


@final
class Bipartite(Sampler):
    """DDIM, which a source is carried up through before it comes down again. Ramesh et al. 2022, sec. 3.

    A picture is a pair: its embedding, which the model is told, and x_T, the noise that DDIM's equation run backwards
    ends at (Dhariwal & Nichol 2021, app. F). With eta 0 the pair gives the picture back; with more, each step forgets
    some of x_T, and the picture varies while its embedding stays. A canvas without a source starts from noise.

    steps: network calls each way. eta: noise put back on the way down, as a share of the posterior's deviation.
    clip_clean: largest absolute value that the clean data predicted on the way down may have, in pixels where latents are
    such, scaled; 0 is no bound. A network that says noise needs one where a schedule ends in hardly any signal, as
    `cosine` does. guidance: scale of classifier-free guidance on the way down; up there is none.
    """

    name = "bipartite"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    accepts = LevelDenoiser
    uses_source = True

    def __init__(
        self,
        latents: LatentFact,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 50,
        eta: Share = 1.0,
        clip_clean: NonNegative = 0.0,
        guidance: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.width, self.process, self.steps = tokens.width, process, steps
        self.eta, self.clip_clean, self.guidance = eta, clip_clean, guidance
        self.shift, self.scale = latents.pixels or (0.0, 1.0)
        self.times()

    def times(self) -> list[float]:
        """From the process, first to last: steps + 1 numbers. Raises InputError on steps that it cannot have."""
        with torch.device("cpu"):
            return self.process.levels(self.steps).tolist()

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        bare = canvas.with_values(None)
        if canvas.values is None:
            (a, s), *_ = self.coefficients()
            x = draw.like(canvas, width=self.width) * (a * a + s * s) ** 0.5
        else:
            x = self.inverted(denoiser, canvas, conditioning)
        return canvas.with_values(self.down(Guided(self.process, denoiser, conditioning, self.guidance), bare, x, draw))

    def inverted(self, denoiser: LevelDenoiser, source: Tokens, conditioning: Conditioning) -> Tensor:
        """x_T of clean tokens: DDIM's equation from data to noise, B N D."""
        plain = Guided(self.process, denoiser, conditioning)
        times, places = self.times()[::-1], self.coefficients()[::-1]
        x = source.filled()
        for i in range(self.steps):
            (a, s), (a_next, s_next) = places[i], places[i + 1]
            # At time 0 the noise is asked for at the first time that has any.
            eps = plain.predict(source.with_values(x), times[max(i, 1)]).as_noise().float()
            x = a_next / a * (x - s * eps) + s_next * eps
        return x

    def down(self, guided: Guided, bare: Tokens, x: Tensor, draw: Draw) -> Tensor:
        """Clean values from x_T. Song et al. 2021, eq. 12 and 16."""
        times, places = self.times(), self.coefficients()
        for i in range(self.steps):
            (a, s), (a_next, s_next) = places[i], places[i + 1]
            said = guided.predict(bare.with_values(x), times[i])
            x0, eps = said.as_clean().float(), said.as_noise().float()
            if self.clip_clean:
                pixels = (x0 / self.scale + self.shift).clamp(-self.clip_clean, self.clip_clean)
                x0 = (pixels - self.shift) * self.scale
                eps = (x - a * x0) / s
            # The deviation of q(x_next | x, x0), times eta.
            forward = max(s * s - (a / a_next * s_next) ** 2, 0.0)
            sigma = min(self.eta * s_next / s * forward**0.5, s_next)
            x = a_next * x0 + (s_next**2 - sigma**2) ** 0.5 * eps
            if sigma > 0:
                x = x + sigma * draw.at(i).like(bare, width=self.width)
        return x

    def coefficients(self) -> list[tuple[float, float]]:
        """Signal and noise at every time."""
        with torch.device("cpu"):
            a, s = self.process.coefficients(torch.tensor(self.times(), dtype=torch.float64))
        return list(zip(a.tolist(), s.tolist(), strict=True))

    def calls(self, canvas: Tokens) -> int:
        down = sum(calls_at(time, self.guidance, (0.0, 1.0)) for time in self.times()[:-1])
        return down + (self.steps if canvas.values is not None else 0)
