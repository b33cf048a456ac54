"""The `raster` sampler."""

from __future__ import annotations

from typing import Annotated, final

import torch

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.process import TokenProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Natural, NonNegative, Share
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.autoregressive.choosing import GuidedLogits, calls_per_guess, chosen, sharpened
from mutoscope.plugins.autoregressive.entropy import known_at, known_ids
from mutoscope.plugins.autoregressive.stream import InOrder


@final
class Raster(Sampler):
    """One id after another, row by row, frame by frame, with the keys and values of earlier ids kept.

    temperature: of the softmax; 0 takes the likeliest id. top_k: likeliest ids that are drawn from; 0 is all. top_p:
    probability mass that is drawn from. guidance: scale of classifier-free guidance on logits; 1 is none. cached: keep
    keys and values; without, every id costs a whole forward pass, and the ids are the same.
    """

    name = "raster"
    accepts = TokenDenoiser
    goes_on_from = "earlier"

    def __init__(
        self,
        process: Annotated[TokenProcess, InOrder],
        *,
        temperature: NonNegative = 1.0,
        top_k: Natural = 0,
        top_p: Share = 1.0,
        guidance: NonNegative = 1.0,
        cached: bool = True,
    ) -> None:
        super().__init__()
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.guidance, self.cached = guidance, cached

    def sample(self, denoiser: TokenDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        guess = GuidedLogits(denoiser, canvas, conditioning, self.guidance, self.cached)
        clips, cells = canvas.clip.shape
        uniform = draw.uniform("ids", cells)
        ids = torch.zeros(clips, cells, dtype=torch.long, device=canvas.device)
        known, where = known_ids(conditioning), known_at(conditioning)
        for n in range(cells):
            logits = guess(canvas.with_values(ids[:, :n] if guess.cached else ids))
            probabilities = sharpened(logits[:, -1 if guess.cached else n], self.temperature, self.top_k, self.top_p)
            ids[:, n] = chosen(probabilities, uniform[:, n])
            if known is not None and where is not None:
                ids[:, n] = torch.where(where[:, n], known[:, n], ids[:, n])
        return canvas.with_values(ids)

    def caches(self) -> int:
        return calls_per_guess(self.guidance) if self.cached else 0

    def calls(self, canvas: Tokens) -> int:
        return canvas.grids[0].cells * calls_per_guess(self.guidance)
