"""The autoencoder `causal_kl`: video compressed in time and space, causally."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

FIRST_LOG_VARIANCE = -6.0
"""Of the posterior before training: noise of a twentieth of the latents' deviation."""


@final
class CausalKl(Autoencoder):
    """A causal 3-D autoencoder with a Gaussian posterior.

    After the continuous tokenizer of W.A.L.T (Gupta et al. 2023, sec. 3.1, arXiv:2312.06662; MAGVIT-v2 without
    quantisation) with the KL term of Rombach et al. 2022, sec. 3.1: the first frame is coded alone, so that
    1 + k * stride frames have 1 + k latent frames and an image is a video of one frame; no latent frame depends on a
    later frame. Cubes of pixels as large as the stride are folded into channels at once, which keeps every convolution
    at the latent resolution and the whole fast on a CPU; residual blocks mix neighbours.

    Both sides are a linear map of each cube, beside which a network learns what no linear map can say. `begin` sets
    the maps to the principal components of the cubes of training clips and their transpose, the best that a linear
    autoencoder can do (Baldi & Hornik 1989), so that training starts from there and the latents stay close to pixels.

    `encode` gives the posterior's mean, less its mean per channel and over one deviation for all channels, as `finish`
    measured them (Rombach et al. 2022, app. G): channels keep their share of the variance, so that what matters little
    to the picture matters little to a denoiser. Term `kl`: nats per clip.

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
        self.project = nn.Conv3d(folded, channels, 1)
        self.back = nn.Conv3d(channels, folded, 1)
        self.encoder = _network(folded, width, depth, kernel, 2 * channels)
        self.decoder = _network(channels, width, depth, kernel, folded)
        nn.init.constant_(self.encoder[-1].bias[channels:], FIRST_LOG_VARIANCE)  # type: ignore[index]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(()))

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
        return Latents((mu - _per_channel(self.mean)) / self.std)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return self._decoded(latents.values * self.std + _per_channel(self.mean))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        mu, log_variance = self._posterior(video)
        eps = draw.normal("posterior", *mu.shape[1:])
        rebuilt = self._decoded(mu + torch.exp(0.5 * log_variance) * eps)
        kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).float().sum((1, 2, 3, 4)).mean()
        return Reconstruction(rebuilt, {"kl": kl})

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Sets the linear maps to the principal components of cubes, scaled to latents of unit variance on average."""
        flat = _columns(_fold(video, self.stride) for video in _videos(batches)).double()
        centre = flat.mean(1, keepdim=True)
        variances, directions = torch.linalg.eigh((flat - centre) @ (flat - centre).mT / flat.shape[1])
        kept = directions[:, -min(self.channels, len(directions)) :].flip(1)
        kept = kept * kept.gather(0, kept.abs().argmax(0, keepdim=True)).sign()
        scale = variances[-kept.shape[1] :].mean().clamp(min=1e-12).sqrt()
        for layer in (self.project, self.back):
            nn.init.zeros_(layer.weight)
        self.project.weight[: kept.shape[1], :, 0, 0, 0] = (kept.mT / scale).to(self.project.weight)
        self.back.weight[:, : kept.shape[1], 0, 0, 0] = (kept * scale).to(self.back.weight)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]
        self.project.bias[: kept.shape[1]] = -(kept.mT @ centre / scale)[:, 0].to(self.project.weight)  # type: ignore[index]
        self.back.bias.copy_(centre[:, 0])  # type: ignore[union-attr]

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Measures the mean of each latent channel and the deviation of all, over training clips."""
        flat = _columns(self._posterior(video)[0] for video in _videos(batches))
        self.mean.copy_(flat.mean(1))
        self.std.copy_(flat.var(1).mean().sqrt().clamp(min=1e-6))

    def _posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        frames, *size = video.shape[2:]
        if not self.covers(frames, (size[0], size[1])):
            t, h, w = self.stride
            raise ShapeError(
                f"causal_kl codes 1 + k * {t} frames of multiples of {h} x {w}; got {frames} of {size[0]} x {size[1]}"
            )
        cubes = _fold(video, self.stride)
        more, log_variance = self.encoder(cubes).chunk(2, dim=1)
        return self.project(cubes) + more, log_variance.clamp(-20, 10)

    def _decoded(self, z: Tensor) -> Tensor:
        return _unfold(self.back(z) + self.decoder(z), self.stride)


def _network(channels: int, width: int, depth: int, kernel: tuple[int, int, int], out: int) -> nn.Sequential:
    """Residual blocks at the latent resolution, silent at first."""
    last = nn.Conv3d(width, out, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    blocks = [Residual(width, kernel) for _ in range(depth)]
    return nn.Sequential(nn.Conv3d(channels, width, 1), *blocks, Norm(width), last)


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


def _videos(batches: Iterable[Batch]) -> Iterator[Tensor]:
    """The clips of batches, B C T H W, one by one where sizes mix."""
    for batch in batches:
        for video in batch.video if isinstance(batch.video, tuple) else (batch.video,):
            if video is not None:
                yield video if video.ndim == 5 else video[None]


def _columns(maps: Iterable[Tensor]) -> Tensor:
    """C x cells of B C T H W maps."""
    return torch.cat([rearrange(x.float(), "b c t h w -> c (b t h w)") for x in maps], dim=1)


def _fold(video: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Cubes of pixels into channels; the first frame is repeated to fill a cube of its own."""
    t, h, w = stride
    still = video[:, :, :1].expand(-1, -1, t - 1, -1, -1)
    return rearrange(torch.cat([still, video], 2), "b c (t i) (h j) (w k) -> b (c i j k) t h w", i=t, j=h, k=w)


def _unfold(cells: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Channels into cubes of pixels; of the first cube only the last frame is kept."""
    t, h, w = stride
    return rearrange(cells, "b (c i j k) t h w -> b c (t i) (h j) (w k)", i=t, j=h, k=w)[:, :, t - 1 :]
