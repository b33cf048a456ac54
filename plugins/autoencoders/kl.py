"""The autoencoder `kl`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, final

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from mutoscope.core.autoencoder import PictureAutoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Natural, Width
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction
from mutoscope.plugins.autoencoders.pictures import Decoder, Encoder, Residual, each_frame


@final
class Kl(PictureAutoencoder):
    """Latent diffusion's autoencoder with a Gaussian posterior, each frame alone. Rombach et al. 2022, sec. 3.1.

    `encode` gives the posterior's mean over the deviation of all latents, which `finish` measures (the paper divides
    samples by that of the first batch, app. G). Term `kl`: nats per clip.

    channels: of the latents. width: channels of the first level. multipliers: of the width, one per level; rows and
    columns halve between levels. depth: residual blocks per level. attend: levels (from 0) with attention; the middle
    has it where `middle` says so.
    """

    name = "kl"
    paper = "Rombach et al. 2022, arXiv:2112.10752"
    tiny = {"channels": 4, "width": 8, "multipliers": (1, 2, 2), "depth": 1}  # noqa: RUF012

    scale: Tensor

    def __init__(
        self,
        clip: ClipFact,
        *,
        channels: Width = 4,
        width: Width = 128,
        multipliers: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2, 4, 4),
        depth: Depth = 2,
        attend: tuple[Natural, ...] = (),
        middle: bool = True,
    ) -> None:
        super().__init__()
        self.clip, self.channels, self.stride = clip, channels, 2 ** (len(multipliers) - 1)
        widths = [width * m for m in multipliers]
        self.encoder = Encoder(clip.channels, 2 * channels, width, widths, depth, attend, middle)
        self.posterior = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.prior = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(channels, clip.channels, widths, depth, attend, middle)
        self.register_buffer("scale", torch.ones(()))

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        yield LatentFact(self.channels, (1, self.stride, self.stride), grid, mixed=self.clip.mixed)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, -(-size[0] // self.stride), -(-size[1] // self.stride))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows * self.stride, grid.columns * self.stride

    def encode(self, video: Tensor) -> Latents:
        return Latents(self._posterior(video)[0] / self.scale)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return self._decoded(latents.values * self.scale)

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        mu, log_variance = self._posterior(video)
        eps = draw.normal("posterior", *mu.shape[1:])
        rebuilt = self._decoded(mu + torch.exp(0.5 * log_variance) * eps)
        kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).float().sum((1, 2, 3, 4)).mean()
        return Reconstruction(rebuilt, {"kl": kl})

    def decoding(self) -> list[nn.Module]:
        return [self.prior, self.decoder]

    def decoder_layers(self) -> list[tuple[nn.Module, int]]:
        blocks = [*self.decoder.middle, *self.decoder.up]
        return [(b, b.conv2.out_channels) for b in blocks if isinstance(b, Residual)]

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Measures the deviation of all latents together over training clips."""
        clips = [clip for b in batches for clip in (b.video if isinstance(b.video, tuple) else [b.video])]
        means = [self._posterior(c if c.ndim == 5 else c[None])[0].float().flatten() for c in clips if c is not None]
        self.scale.copy_(torch.cat(means).std().clamp(min=1e-6))

    def _posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        if any(n % self.stride for n in video.shape[3:]):
            raise ShapeError(f"kl codes multiples of {self.stride} x {self.stride}; got {tuple(video.shape[3:])}")
        mu, log_variance = each_frame(lambda x: self.posterior(self.encoder(x)), video).chunk(2, dim=1)
        return mu, log_variance.clamp(-30, 20)

    def _decoded(self, z: Tensor) -> Tensor:
        return each_frame(lambda x: self.decoder(self.prior(x)), z)
