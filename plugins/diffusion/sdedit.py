"""The `sdedit` sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.guidance import Guided, calls_at
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, NonNegative, Share, Steps
from mutoscope.core.values import Conditioning, Known, Tokens
from mutoscope.plugins.diffusion.ancestral import Variance, ancestral_step
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk


@final
class Sdedit(LevelSampler):
    """Edits a clip: noise on top of it, part of the way, and back by the reverse chain. Meng et al. 2022, alg. 1 to 4.

    Works on any level process and a model trained for nothing else. What is to stay (known tokens) is made noisy anew
    from the source at every step, and is the source's own at the end; the network is not told of it. A canvas without a
    source is sampled from noise, all the way.

    strength: the time up to which noise is added, 0 gives the source back. steps: of the whole way from noise; those
    below `strength` are run. repeats: how often noise is added and taken away again. variance: of the fresh noise, as
    in `ancestral`; `large` is the reverse equation of a process whose noise grows. clip_clean: as in `ancestral`.
    guidance: scale of classifier-free guidance; 1 is none. guidance_interval: times within which it acts.
    """

    name = "sdedit"
    paper = "Meng et al. 2022, arXiv:2108.01073"
    uses_source = True
    goes_on_from = "all"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        strength: Share = 0.5,
        steps: Steps = 250,
        repeats: Count = 1,
        variance: Variance = "large",
        clip_clean: NonNegative = 0.0,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)
        self.strength, self.repeats, self.clip_clean = strength, repeats, clip_clean
        self.variance: Variance = variance

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        source, known = canvas.values, conditioning.known
        guided = Guided(self.process, denoiser, replace(conditioning, known=None), self.guidance, self.interval)
        bare = canvas.with_values(None)
        if source is None:
            walk = Walk(guided, bare, self.width, self.times(), draw)
            a, s = walk.coefficients(0)
            return bare.with_values(self._down(walk, walk.fresh(self.steps) * (a * a + s * s) ** 0.5, known))
        if known is not None:
            known = Known(source, known.where)
        x = source
        for repeat in range(self.repeats if self.strength > 0 else 0):
            walk = Walk(guided, bare, self.width, self.edited(), draw.at(repeat))
            x = self._down(walk, self._noisy(walk, x, 0, "added"), known)
        return canvas.with_values(x)

    def edited(self) -> list[float]:
        """The times of one edit: `strength`, and the sampler's own below it."""
        return [self.strength, *(time for time in self.times() if time < self.strength)]

    def called(self) -> list[float]:
        """As `sample` makes them for a clip to edit."""
        return self.edited()[:-1] * self.repeats if self.strength > 0 else []

    def calls(self, canvas: Tokens) -> int:
        times = self.times()[:-1] if canvas.values is None else self.called()
        return sum(calls_at(time, self.guidance, self.interval) for time in times)

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        last = i + 2 == len(walk.times)
        z = None if last else walk.fresh(i)
        said = walk.predict(x, i)
        return ancestral_step(said, walk.coefficients(i), walk.coefficients(i + 1), self.variance, self.clip_clean, z)

    def _down(self, walk: Walk, x: Tensor, known: Known | None) -> Tensor:
        for i in range(len(walk.times) - 1):
            x = self.step(walk, x, i)
            if known is not None:
                x = torch.where(known.where[..., None], self._noisy(walk, known.values, i + 1, f"kept.{i}"), x)
        return x

    def _noisy(self, walk: Walk, x: Tensor, i: int, what: str) -> Tensor:
        """x at times[i]: a x + s eps."""
        a, s = walk.coefficients(i)
        return a * x if s == 0 else a * x + s * walk.draw.like(walk.canvas, what, self.width)
