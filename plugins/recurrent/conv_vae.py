"""The autoencoder `conv_vae`: each frame is one vector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, final

import torch
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact, OneSize
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import NonNegative, Width
from mutoscope.core.values import Grid, Latents, Reconstruction


@final
class ConvVae(Autoencoder):
    """A variational autoencoder of single frames by convolutions without padding: what a world model sees.

    Ha & Schmidhuber 2018, app. A.1, arXiv:1803.10122. Convolutions of 4 x 4 at stride 2, then the mean and log variance
    of one vector per frame; transposed convolutions at stride 2 from one cell back to the frame. `encode` gives the
    posterior's mean and its spread, so that a denoiser learns from draws of it. Term `kl`: nats per clip, of each frame
    at least `free` per number of its vector. With the objective `reconstruction` the paper's sum of squared errors of
    pixels in [0, 1] is pixel `l2` and kl 4.

    code: numbers of a frame's vector. channels: of the encoder's convolutions; the decoder mirrors them. kernels: of
    the decoder's, which must lead from one cell to the frame's size. free: nats that cost nothing to hold.
    """

    name = "conv_vae"
    paper = "Ha & Schmidhuber 2018, arXiv:1803.10122"
    tiny = {"code": 4, "channels": (8, 16), "kernels": (6, 6)}  # noqa: RUF012

    def __init__(
        self,
        clip: Annotated[ClipFact, OneSize],
        *,
        code: Width = 32,
        channels: tuple[Width, ...] = (32, 64, 128, 256),
        kernels: tuple[Width, ...] = (5, 5, 6, 6),
        free: NonNegative = 0.5,
    ) -> None:
        super().__init__()
        if len(kernels) != len(channels) or not channels:
            raise ValueError("kernels: the decoder has as many as the encoder has channels")
        self.clip, self.code, self.free = clip, code, free
        self.sides = tuple(reached(n, len(channels)) for n in clip.size)
        made = [1]
        for kernel in kernels:
            made.append((made[-1] - 1) * 2 + kernel)
        if any(n != made[-1] for n in clip.size):
            raise ValueError(f"kernels: {list(kernels)} lead to {made[-1]} x {made[-1]}, not to {clip.size}")
        widths = [clip.channels, *channels]
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        flat = channels[-1] * self.sides[0] * self.sides[1]
        for a, b in zip(widths, channels, strict=False):
            encoder += [nn.Conv2d(a, b, 4, 2), nn.ReLU()]
        for i, (a, kernel) in enumerate(zip([flat, *channels[-2::-1]], kernels, strict=True)):
            decoder += [nn.ReLU()] if i else []
            decoder.append(nn.ConvTranspose2d(a, widths[-2 - i], kernel, 2))
        self.encoder = nn.Sequential(*encoder)
        self.mean, self.log_variance = nn.Linear(flat, code), nn.Linear(flat, code)
        self.start = nn.Linear(code, flat)
        self.decoder = nn.Sequential(*decoder)

    def facts(self) -> Iterable[LatentFact]:
        yield LatentFact(self.code, (1, *self.clip.size), Grid(self.clip.frames, 1, 1))

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, *(-(-n // m) for n, m in zip(size, self.clip.size, strict=True)))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows * self.clip.size[0], grid.columns * self.clip.size[1]

    def encode(self, video: Tensor) -> Latents:
        mu, log_variance = self._posterior(video)
        return Latents(_column(mu, len(video)), spread=_column(torch.exp(0.5 * log_variance), len(video)))

    def decode(self, latents: Latents) -> Tensor:
        """Raises ShapeError on latents of more than one frame's size."""
        z = latents.values
        assert isinstance(z, Tensor)
        if z.shape[3:] != (1, 1):
            raise ShapeError(f"conv_vae decodes frames of {self.clip.size[0]} x {self.clip.size[1]} alone")
        return self._decoded(rearrange(z, "b c t 1 1 -> (b t) c"), len(z))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        mu, log_variance = self._posterior(video)
        eps = rearrange(draw.normal("posterior", video.shape[2], self.code), "b t c -> (b t) c")
        kl = 0.5 * (mu.square() + log_variance.exp() - 1.0 - log_variance).float().sum(1)
        kl = kl.clamp(min=self.free * self.code).view(len(video), -1).sum(1).mean()
        return Reconstruction(self._decoded(mu + torch.exp(0.5 * log_variance) * eps, len(video)), {"kl": kl})

    def _posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of each frame, (B T) code."""
        if tuple(video.shape[3:]) != tuple(self.clip.size):
            raise ShapeError(f"conv_vae codes frames of {tuple(self.clip.size)}; got {tuple(video.shape[3:])}")
        x = self.encoder(rearrange(0.5 * (video + 1.0), "b c t h w -> (b t) c h w")).flatten(1)
        return self.mean(x), self.log_variance(x)

    def _decoded(self, z: Tensor, clips: int) -> Tensor:
        pixels = self.decoder(self.start(z)[:, :, None, None]).sigmoid()
        return rearrange(2.0 * pixels - 1.0, "(b t) c h w -> b c t h w", b=clips)


def reached(size: int, halvings: int) -> int:
    """What convolutions of 4 at stride 2 without padding leave of a size. Raises ValueError where it is nothing."""
    for _ in range(halvings):
        size = (size - 4) // 2 + 1
    if size < 1:
        raise ValueError("channels: too many convolutions for frames of this size")
    return size


def _column(z: Tensor, clips: int) -> Tensor:
    return rearrange(z, "(b t) c -> b c t 1 1", b=clips)
