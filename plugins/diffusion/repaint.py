"""The `repaint` sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.guidance import Guided
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, NonNegative, Steps
from mutoscope.core.values import Conditioning, Known, Tokens
from mutoscope.plugins.diffusion.ancestral import Variance, ancestral_step
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk


@final
class Repaint(LevelSampler):
    """Makes what is missing with a model that was trained for nothing else. Lugmayr et al. 2022, alg. 1.

    At every time what is known takes its own noisy value, and the rest a step of the reverse chain; then the whole goes
    some steps back up to noise and down again, so that the two come to agree (sec. 4.2). Works on any level process;
    the network is not told what is known. Where nothing is, it is the reverse chain.

    steps: of the way down. repeats: how often each stretch is gone down (the paper's r, there 10). jump: steps of a
    stretch (there 10, of 250). variance, clip_clean: as in `ancestral`. guidance: scale of classifier-free guidance; 1
    is none. guidance_interval: times within which it acts.
    """

    name = "repaint"
    paper = "Lugmayr et al. 2022, arXiv:2201.09865"
    goes_on_from = "all"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        *,
        steps: Steps = 50,
        repeats: Count = 5,
        jump: Count = 5,
        variance: Variance = "small",
        clip_clean: NonNegative = 0.0,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)
        self.repeats, self.jump, self.clip_clean = repeats, jump, clip_clean
        self.variance: Variance = variance

    def visited(self) -> list[int]:
        """The times that are gone through, by number, from 0 (noise) to the last: the schedule of app. B."""
        left = dict.fromkeys(range(self.jump, self.steps, self.jump), self.repeats - 1)
        at, path = 0, [0]
        while at < self.steps:
            at += 1
            path.append(at)
            if left.get(at, 0) > 0:
                left[at] -= 1
                path += range(at - 1, at - self.jump - 1, -1)
                at -= self.jump
        return path

    def called(self) -> list[float]:
        times, path = self.times(), self.visited()
        return [times[now] for now, then in zip(path, path[1:], strict=False) if then > now]

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        known = conditioning.known
        guided = Guided(self.process, denoiser, replace(conditioning, known=None), self.guidance, self.interval)
        walk = Walk(guided, canvas.with_values(None), self.width, self.times(), draw)
        a, s = walk.coefficients(0)
        x = draw.like(canvas, width=self.width) * (a * a + s * s) ** 0.5
        path = self.visited() if known is not None else list(range(self.steps + 1))
        for number, (now, then) in enumerate(zip(path, path[1:], strict=False)):
            z = walk.fresh(number)
            if then < now:
                x = _noisier(x, walk, now, then, z)
                continue
            x = self._down(walk, x, now, None if then == self.steps else z)
            if known is not None:
                x = _with_known(x, known, walk, then, number)
        return canvas.with_values(x)

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        return self._down(walk, x, i, None if i + 1 == self.steps else walk.fresh(i))

    def _down(self, walk: Walk, x: Tensor, i: int, z: Tensor | None) -> Tensor:
        now, then = walk.coefficients(i), walk.coefficients(i + 1)
        return ancestral_step(walk.predict(x, i), now, then, self.variance, self.clip_clean, z)


def _noisier(x: Tensor, walk: Walk, now: int, then: int, z: Tensor) -> Tensor:
    """x from times[now] to times[then], which is noisier: the forward step of the process."""
    (a, s), (a_then, s_then) = walk.coefficients(now), walk.coefficients(then)
    r = a_then / a
    return r * x + max(s_then * s_then - (r * s) ** 2, 0.0) ** 0.5 * z


def _with_known(x: Tensor, known: Known, walk: Walk, i: int, number: int) -> Tensor:
    """x with what is known at times[i] in its place."""
    a, s = walk.coefficients(i)
    own = a * known.values
    if s > 0:
        own = own + s * walk.draw.at(number).like(walk.canvas, "known", walk.width)
    return torch.where(known.where[..., None], own, x)
