"""The autoencoder `identity`: pixels are the latents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Positive
from mutoscope.core.values import Grid, Latents, Reconstruction


@final
class Identity(Autoencoder):
    """No compression: a model over it works on pixels.

    scale: pixels in [-1, 1] times this are the latents; 2 gives natural pictures about unit variance. shift: is taken
    away from pixels before, as where a bright background moves their mean.
    """

    name = "identity"

    def __init__(self, clip: ClipFact, *, scale: Positive = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.clip, self.scale, self.shift = clip, scale, shift

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        pixels = self.shift, self.scale
        yield LatentFact(self.clip.channels, (1, 1, 1), grid, mixed=self.clip.mixed, pixels=pixels)

    def encode(self, video: Tensor) -> Latents:
        return Latents((video - self.shift) * self.scale)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return latents.values / self.scale + self.shift

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, *size)

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows, grid.columns

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        return Reconstruction(video)
