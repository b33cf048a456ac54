"""The autoencoder `palette`: a pixel is one of a few colours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction
from mutoscope.plugins.autoencoders.codebooks import nearest

PIXELS = 1 << 16
"""Pixels that the colours are found from."""
ROUNDS = 20
"""Rounds of Lloyd's algorithm."""


@final
class Palette(Autoencoder):
    """Colours by k-means, learned from the data and stored with the model. Chen et al. 2020, sec. 3.2 (Image GPT).

    At the start of its phase the colours are found by Lloyd's algorithm over the pixels of a few training clips, from
    distinct pixels that are far apart; the phase then moves each colour to the mean of its pixels, which is what
    descent on the squared error does (Bottou & Bengio 1995, sec. 3). One step is enough.

    colours: 512 in the paper.
    """

    name = "palette"
    paper = "Chen et al. 2020, Generative Pretraining from Pixels"
    tiny = {"colours": 16}  # noqa: RUF012

    def __init__(self, clip: ClipFact, *, colours: Count = 512) -> None:
        super().__init__()
        self.clip = clip
        self.colours = nn.Parameter(torch.rand(colours, clip.channels) * 2 - 1)

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        yield LatentFact(self.clip.channels, (1, 1, 1), grid, codebook=len(self.colours), mixed=self.clip.mixed)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, *size)

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows, grid.columns

    def encode(self, video: Tensor) -> Latents:
        ids = nearest(rearrange(video, "b c t h w -> (b t h w) c"), self.colours.detach())
        return Latents(ids.view(len(video), *video.shape[2:]), ids=True)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return rearrange(F.embedding(latents.values, self.colours), "b t h w c -> b c t h w")

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        return Reconstruction(self.decode(self.encode(video)))

    def codes(self) -> Tensor:
        return self.colours.detach()

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Finds the colours by k-means."""
        clips = [clip for b in batches for clip in (b.video if isinstance(b.video, tuple) else [b.video])]
        pixels = torch.cat([clip.transpose(0, -4).flatten(1).T for clip in clips if clip is not None])
        pixels = pixels[:: max(1, len(pixels) // PIXELS)]
        self.colours.copy_(k_means(pixels, len(self.colours)))


def k_means(points: Tensor, count: int, rounds: int = ROUNDS) -> Tensor:
    """Centres of M C points: Lloyd 1982, from points each the farthest from those before (Gonzalez 1985).

    Where there are fewer distinct points than centres, the last centres repeat a point.
    """
    centres = points[:1]
    distance = (points - centres).square().sum(1)
    while len(centres) < count:
        centres = torch.cat([centres, points[distance.argmax()][None]])
        distance = torch.minimum(distance, (points - centres[-1]).square().sum(1))
    for _ in range(rounds):
        ids = nearest(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, ids, points)
        held = torch.bincount(ids, minlength=count)[:, None]
        centres = torch.where(held > 0, sums / held.clamp(min=1), centres)
    return centres
