"""The video of a cascade's earlier stage, corrupted, and brought to the latent cells of the next."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.facts import EarlierFact, LatentFact
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.randomness import Draw

TOLD = 32
"""Numbers that say how much a clip was corrupted."""


class Corruption:
    """Noise on the earlier video, and what the network is told of it. Ho et al. 2022, sec. 2.5, arXiv:2210.02303.

    a x + s eps with a = cos(pi u / 2) and s = sin(pi u / 2): in training u is drawn anew for every clip up to `most`,
    in sampling it has the signal-to-noise ratio a^2 / s^2 = snr.
    """

    def __init__(self, most: float, snr: float) -> None:
        self.most, self.asked = most, 2 / math.pi * math.atan(snr**-0.5)

    def __call__(self, video: Tensor, draw: Draw, training: bool) -> tuple[Tensor, Tensor]:
        """B C T H W corrupted, and B TOLD."""
        if training:
            u = draw.uniform("corruption").view(-1) * self.most
        else:
            u = torch.full((len(video),), min(self.asked, self.most), device=video.device)
        angle = (u * (math.pi / 2)).view(-1, 1, 1, 1, 1)
        eps = draw.normal("corruption", *video.shape[1:])
        return angle.cos() * video + angle.sin() * eps, sinusoid(u * 1000, TOLD)


class Alignment:
    """How frames, rows and columns of an earlier video meet the latent cells.

    Where cells are fewer, pixels are folded into channels, frames causally: the first one stays alone. ratios: how many
    cells an earlier place is, 1 where it was folded. channels: of the folded video. Raises ValueError where sizes have
    no whole ratio.
    """

    def __init__(self, earlier: EarlierFact, latents: LatentFact) -> None:
        frames, rows, columns = latents.grid
        self.fold_time = _times(earlier.frames - 1, frames - 1) if latents.causal and earlier.frames > frames else 1
        self.fold = tuple(
            _times(had, has) if had > has else 1
            for had, has in zip(earlier.size, (rows, columns), strict=True)
        )  # fmt: skip
        self.channels = earlier.channels * self.fold_time * self.fold[0] * self.fold[1]
        self.ratios = tuple(
            has * fold / had for had, has, fold in zip(earlier.size, (rows, columns), self.fold, strict=True)
        )
        own = 1 + (earlier.frames - 1) // self.fold_time if self.fold_time > 1 else earlier.frames
        self.rate = 1 if own == frames else _times(frames, own)

    def folded(self, video: Tensor) -> Tensor:
        """B C T H W to B channels T' H' W'."""
        k, (h, w) = self.fold_time, self.fold
        if k > 1:
            video = torch.cat([video[:, :, :1].expand(-1, -1, k - 1, -1, -1), video], dim=2)
        return rearrange(video, "b c (t i) (y j) (x k) -> b (c i j k) t y x", i=k, j=h, k=w)

    def enlarged(self, video: Tensor) -> Tensor:
        """B C T H W with rows and columns of the cells, bilinearly."""
        if self.ratios == (1.0, 1.0):
            return video
        size = [round(n * ratio) for n, ratio in zip(video.shape[3:], self.ratios, strict=True)]
        flat = F.interpolate(rearrange(video, "b c t h w -> (b t) c h w"), size=size, mode="bilinear")
        return rearrange(flat, "(b t) c h w -> b c t h w", b=len(video))

    def repeated(self, video: Tensor) -> Tensor:
        """Every frame as often as makes the cells' frames."""
        return video.repeat_interleave(self.rate, dim=2)

    def blanked(self, video: Tensor) -> Tensor:
        """Frames at their places, zeros between; and beside them 1 where there is a frame, else 0."""
        there = torch.ones_like(video[:, :1])
        both = torch.cat([video, there], dim=1)
        spread = both.new_zeros(*both.shape[:2], both.shape[2] * self.rate, *both.shape[3:])
        spread[:, :, :: self.rate] = both
        return spread


def _times(more: int, fewer: int) -> int:
    """How often one goes into the other. Raises ValueError where that is no whole number."""
    if fewer < 1 or more % fewer:
        raise ValueError(f"view: {more} and {fewer} of two stages have no whole ratio")
    return more // fewer
