"""The autoencoder `fsq`: finite scalar quantisation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, final

import torch
from annotated_types import Ge, MinLen
from einops import rearrange
from torch import Tensor

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Cube, Depth, Width
from mutoscope.core.values import Grid, Latents, Reconstruction
from mutoscope.plugins.autoencoders.cells import Cells
from mutoscope.plugins.autoencoders.codebooks import passed_on


@final
class Fsq(Autoencoder):
    """Each of a few channels is rounded to a few levels; the product of the levels is the codebook.

    Mentzer et al. 2024, sec. 3, arXiv:2309.15505: tanh bounds a channel so that rounding gives exactly L levels, the
    gradient passes straight through, and there is no codebook to learn and no further term. Codes are 0 ... L - 1 per
    channel, the first channel varying fastest, and the decoder sees them in [-1, 1]. Causal in time.

    levels: of each channel; [8, 5, 5, 5] are a thousand codes. stride: frames, rows, columns of pixels per code.
    width, depth: of the residual blocks on either side.
    """

    name = "fsq"
    paper = "Mentzer et al. 2024, arXiv:2309.15505"
    tiny = {"levels": (4, 2, 2), "width": 16, "depth": 1}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        levels: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] = (8, 5, 5, 5),
        stride: Cube = (2, 4, 4),
        width: Width = 96,
        depth: Depth = 2,
    ) -> None:
        super().__init__()
        self.clip, self.stride, self.levels = clip, tuple(stride), tuple(levels)
        self.cells = Cells(clip, len(levels), self.stride, width, depth)

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        yield LatentFact(
            len(self.levels), self.stride, grid, True, codebook=math.prod(self.levels), mixed=self.clip.mixed
        )

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return self.cells.latent_grid(frames, size)

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return self.cells.video_size(grid)

    def encode(self, video: Tensor) -> Latents:
        return Latents(self.ids(self.rounded(self.cells.encode(video))), ids=True)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return self.cells.decode(self.values(latents.values))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        return Reconstruction(self.cells.decode(self.rounded(self.cells.encode(video))))

    def rounded(self, z: Tensor) -> Tensor:
        """B C T H W to the nearest levels, in [-1, 1], with a straight-through gradient (eq. 1)."""
        z, levels = rearrange(z, "b c t h w -> b t h w c"), self._levels(z)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(z + torch.atanh(offset / half)) * half - offset
        return rearrange(passed_on(bounded, bounded.round()) / (levels // 2), "b t h w c -> b c t h w")

    def ids(self, values: Tensor) -> Tensor:
        """B C T H W levels in [-1, 1] to ids B T H W."""
        levels = self._levels(values)
        steps = rearrange(values, "b c t h w -> b t h w c") * (levels // 2) + levels // 2
        return (steps.round().long() * self._basis(values.device)).sum(-1)

    def values(self, ids: Tensor) -> Tensor:
        """Ids B T H W to B C T H W levels in [-1, 1]."""
        levels = torch.tensor(self.levels, device=ids.device)
        steps = ids[..., None] // self._basis(ids.device) % levels
        return rearrange((steps - levels // 2) / (levels // 2), "b t h w c -> b c t h w")

    def _levels(self, like: Tensor) -> Tensor:
        return torch.tensor(self.levels, dtype=like.dtype, device=like.device)

    def _basis(self, device: torch.device) -> Tensor:
        return torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))], device=device)
