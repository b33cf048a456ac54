"""The autoencoder `causal_kl`: video compressed in time and space, causally."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.layers.causal_conv import CausalConv3d
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Cube, Depth, Natural, Width
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction


@final
class CausalKl(Autoencoder):
    """A causal 3-D autoencoder with a Gaussian posterior.

    After the continuous tokenizer of W.A.L.T (Gupta et al. 2023, sec. 3.1, arXiv:2312.06662; MAGVIT-v2 without
    quantisation) with the KL term of Rombach et al. 2022, sec. 3.1: the first frame is coded alone, so that
    1 + k * stride frames have 1 + k latent frames and an image is a video of one frame; no latent frame depends on a
    later frame. Cubes of pixels as large as the stride are folded into channels at once, which keeps every convolution
    at the latent resolution and the whole fast on a CPU; residual blocks mix neighbours.

    `encode` gives the posterior's mean, brought to zero mean and unit variance per channel by what `finish` measured.
    Term `kl`: nats per clip.

    channels: of the latents. stride: frames, rows, columns of pixels per latent cell. width, depth: of the residual
    blocks on either side. reach: kernel along time.
    """

    name = "causal_kl"
    paper = "Gupta et al. 2023, arXiv:2312.06662"
    tiny = {"channels": 4, "width": 16, "depth": 1}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        channels: Width = 8,
        stride: Cube = (2, 4, 4),
        width: Width = 96,
        depth: Depth = 2,
        reach: Natural = 2,
        space: Literal[1, 3, 5] = 3,
    ) -> None:
        super().__init__()
        if reach < 1:
            raise ValueError("reach: a kernel sees at least its own frame")
        self.clip, self.stride, self.channels = clip, tuple(stride), channels
        t, h, w = self.stride
        folded = clip.channels * t * h * w
        kernel = (reach, space, space)
        self.encoder = nn.Sequential(
            nn.Conv3d(folded, width, 1), *(Residual(width, kernel) for _ in range(depth)), Norm(width),
            nn.Conv3d(width, 2 * channels, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv3d(channels, width, 1), *(Residual(width, kernel) for _ in range(depth)), Norm(width),
            nn.Conv3d(width, folded, 1),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        yield LatentFact(self.channels, self.stride, grid, causal=True, mixed=self.clip.mixed)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        t, h, w = self.stride
        return Grid(1 + -(-(frames - 1) // t), -(-size[0] // h), -(-size[1] // w))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        t, h, w = self.stride
        return 1 + (grid.frames - 1) * t, grid.rows * h, grid.columns * w

    def encode(self, video: Tensor) -> Latents:
        mu, _ = self._posterior(video)
        return Latents((mu - _per_channel(self.mean)) / _per_channel(self.std))

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return self._decoded(latents.values * _per_channel(self.std) + _per_channel(self.mean))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        mu, log_variance = self._posterior(video)
        eps = draw.normal("posterior", *mu.shape[1:])
        rebuilt = self._decoded(mu + torch.exp(0.5 * log_variance) * eps)
        kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).float().sum((1, 2, 3, 4)).mean()
        return Reconstruction(rebuilt, {"kl": kl})

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Measures the mean and deviation of each latent channel over training clips."""
        self.mean.zero_()
        self.std.fill_(1)
        clips = [clip for b in batches for clip in (b.video if isinstance(b.video, tuple) else [b.video])]
        means = [self._posterior(clip if clip.ndim == 5 else clip[None])[0] for clip in clips if clip is not None]
        flat = torch.cat([rearrange(mu.float(), "b c t h w -> c (b t h w)") for mu in means], dim=1)
        self.mean.copy_(flat.mean(1))
        self.std.copy_(flat.std(1).clamp(min=1e-6))

    def _posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        frames, *size = video.shape[2:]
        if not self.covers(frames, (size[0], size[1])):
            t, h, w = self.stride
            raise ShapeError(
                f"causal_kl codes 1 + k * {t} frames of multiples of {h} x {w}; got {frames} of {size[0]} x {size[1]}"
            )
        mu, log_variance = self.encoder(_fold(video, self.stride)).chunk(2, dim=1)
        return mu, log_variance.clamp(-20, 10)

    def _decoded(self, z: Tensor) -> Tensor:
        return _unfold(self.decoder(z), self.stride)


class Residual(nn.Module):
    """x + conv(silu(causal_conv(norm(x)))), the last convolution of one cell."""

    def __init__(self, width: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.mix = CausalConv3d(width, 2 * width, kernel)
        self.out = nn.Conv3d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.silu(self.mix(self.norm(x))))


class Norm(nn.Module):
    """Root-mean-square norm over channels at each cell, so that no cell looks at another (Zhang & Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * _per_channel(self.gain * len(self.gain) ** 0.5).to(x.dtype)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _fold(video: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Cubes of pixels into channels; the first frame is repeated to fill a cube of its own."""
    t, h, w = stride
    still = video[:, :, :1].expand(-1, -1, t - 1, -1, -1)
    return rearrange(torch.cat([still, video], 2), "b c (t i) (h j) (w k) -> b (c i j k) t h w", i=t, j=h, k=w)


def _unfold(cells: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Channels into cubes of pixels; of the first cube only the last frame is kept."""
    t, h, w = stride
    return rearrange(cells, "b (c i j k) t h w -> b c (t i) (h j) (w k)", i=t, j=h, k=w)[:, :, t - 1 :]
