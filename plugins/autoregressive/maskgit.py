"""The `maskgit` sampler."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.process import TokenProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Natural, NonNegative, Share, Steps
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.autoregressive.choosing import GuidedLogits, calls_per_guess, chosen, sharpened
from mutoscope.plugins.autoregressive.entropy import known_at, known_ids
from mutoscope.plugins.autoregressive.stream import AnyOrder


@final
class Maskgit(Sampler):
    """All ids at once, in a few steps; the least confident are hidden again. Chang et al. 2022, sec. 3.2.

    After step t of T, ceil(cos(pi t / 2T) N) ids stay hidden: those whose log-probability, with Gumbel noise of a scale
    that falls to 0, is lowest. An id once kept stays.

    steps: network calls, doubled with guidance; more than there are ids make no difference. temperature: of the softmax
    that ids are drawn from. noise: scale of the Gumbel noise at first (released code: 4.5). top_k, top_p, guidance: as
    for `raster`.
    """

    name = "maskgit"
    paper = "Chang et al. 2022, arXiv:2202.04200"
    accepts = TokenDenoiser
    goes_on_from = "all"

    def __init__(
        self,
        process: Annotated[TokenProcess, AnyOrder],
        *,
        steps: Steps = 12,
        temperature: NonNegative = 1.0,
        noise: NonNegative = 4.5,
        top_k: Natural = 0,
        top_p: Share = 1.0,
        guidance: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.hole = process.hole or 0  # what assembly refuses is built all the same
        self.steps, self.temperature, self.noise = steps, temperature, noise
        self.top_k, self.top_p, self.guidance = top_k, top_p, guidance

    def sample(self, denoiser: TokenDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        guess = GuidedLogits(denoiser, canvas, conditioning, self.guidance, cached=False)
        clips, cells = canvas.clip.shape
        ids = torch.full((clips, cells), self.hole, dtype=torch.long, device=canvas.device)
        known, where = known_ids(conditioning), known_at(conditioning)
        if known is not None and where is not None:
            ids = torch.where(where, known, ids)
        for t in range(1, self.steps + 1):
            holes = ids == self.hole
            probabilities = sharpened(guess(canvas.with_values(ids)), self.temperature, self.top_k, self.top_p)
            drawn = chosen(probabilities, draw.at(t).uniform("ids", cells))
            ids = torch.where(holes, drawn, ids)
            left = self.left(t, cells)
            if left == 0:
                break
            confidence = probabilities.gather(-1, ids[..., None])[..., 0].clamp(min=1e-30).log()
            gumbel = -(-draw.at(t).uniform("gumbel", cells).clamp(min=1e-9).log()).log()
            confidence = confidence + self.noise * (1 - t / self.steps) * gumbel
            order = confidence.masked_fill(~holes, torch.inf).argsort(1).argsort(1)
            ids = ids.masked_fill((order < left) & holes, self.hole)
        return canvas.with_values(ids)

    def left(self, t: int, cells: int) -> int:
        """Ids that stay hidden after step t."""
        return math.ceil(round(math.cos(math.pi / 2 * t / self.steps) * cells, 6)) if t < self.steps else 0

    def calls(self, canvas: Tokens) -> int:
        return self.steps * calls_per_guess(self.guidance)
