"""The autoencoder `my_part`: compresses every frame by itself. A start to change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from mutoscope import hookimpl
from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.component import Component
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Width
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction


@final
class MyPart(Autoencoder):
    """Convolutions that code squares of each frame as one cell, and back.

    channels: of a latent cell. stride: pixels along the side of the square of a cell. width: of the hidden layers.
    """

    name = "my_part"
    tiny: ClassVar[dict[str, Any]] = {"width": 16}

    def __init__(self, clip: ClipFact, *, channels: Count = 8, stride: Count = 4, width: Width = 64) -> None:
        super().__init__()
        self.clip, self.channels, self.stride = clip, channels, stride
        cube = (1, stride, stride)
        self.encoder = nn.Sequential(
            nn.Conv3d(clip.channels, width, cube, cube), nn.SiLU(), nn.Conv3d(width, channels, 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv3d(channels, width, 1), nn.SiLU(), nn.ConvTranspose3d(width, clip.channels, cube, cube)
        )
        self.mean, self.std = nn.Buffer(torch.zeros(channels)), nn.Buffer(torch.ones(channels))

    def encode(self, video: Tensor) -> Latents:
        frames, rows, columns = video.shape[2:]
        if not self.covers(frames, (rows, columns)):
            raise ShapeError(f"my_part codes multiples of {self.stride} pixels; got {rows} x {columns}")
        return Latents((self.encoder(video) - _per_channel(self.mean)) / _per_channel(self.std))

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return self.decoder(latents.values * _per_channel(self.std) + _per_channel(self.mean))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        return Reconstruction(self.decoder(self.encoder(video)))

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, -(-size[0] // self.stride), -(-size[1] // self.stride))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows * self.stride, grid.columns * self.stride

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        yield LatentFact(self.channels, (1, self.stride, self.stride), grid, mixed=self.clip.mixed)

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Measures the latents, so that `encode` gives about zero mean and unit variance."""
        coded = [
            self.encoder(b.video.to(self.mean.device)).movedim(1, 0).flatten(1)
            for b in batches
            if isinstance(b.video, Tensor)
        ]
        if coded:
            flat = torch.cat(coded, dim=1)
            self.mean.copy_(flat.mean(1))
            self.std.copy_(flat.std(1).clamp(min=1e-6))


def _per_channel(x: Tensor) -> Tensor:
    return x[:, None, None, None]


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
