"""The autoencoder `videogpt_vq`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, final

import torch
import torch.nn.functional as F
from annotated_types import Ge
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Cube, Depth, Share, Width
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction
from mutoscope.plugins.autoencoders.codebooks import Codebook, encodings, nearest

HEADS = 2
"""Heads of the axial attention (released code)."""


@final
class VideogptVq(Autoencoder):
    """The 3-D VQ-VAE of VideoGPT. Yan et al. 2021, sec. 3.1, arXiv:2104.10157.

    Strided 3-D convolutions, residual blocks with axial attention over time, rows and columns (summed, not one after
    the other), and a codebook that follows moving averages, with random restarts. Follows the released code where the
    paper differs: batch norm where the paper says layer norm, half the width inside a block. Pixels enter in
    [-.5, .5]; the paper's loss, MSE/.06 + .25 commitment, is `reconstruction` with pixel l2 and commitment .06 up to a
    factor.

    codes, code_width: of the codebook. stride: powers of two. width: of all layers. depth: residual blocks on either
    side. decay: of the codebook's moving averages. attention: off, as one of the paper's ablations has it, it leaves
    blocks their convolutions.
    """

    name = "videogpt_vq"
    paper = "Yan et al. 2021, arXiv:2104.10157"
    mixes_batch = True
    tiny = {"codes": 16, "code_width": 4, "width": 8, "depth": 1, "stride": (1, 4, 4)}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        codes: Count = 1024,
        code_width: Width = 256,
        stride: Cube = (4, 4, 4),
        width: Annotated[int, Ge(2)] = 240,
        depth: Depth = 4,
        decay: Share = 0.99,
        attention: bool = True,
    ) -> None:
        super().__init__()
        if any(s & (s - 1) for s in stride):
            raise ValueError(f"stride: every axis is halved some times, so strides are powers of two; got {stride}")
        if width % HEADS:
            raise ValueError(f"width: must be even; got {width}")
        self.clip, self.stride, self.code_width = clip, tuple(stride), code_width
        steps = _steps(self.stride)
        ins = [clip.channels] + [width] * len(steps)
        self.encoder = nn.Sequential()
        for i, step in enumerate(steps):
            self.encoder.extend([Conv(ins[i], width, 4, step), nn.ReLU()])
        self.encoder.extend([Conv(ins[-1], width, 3), Stack(width, depth, attention), nn.Conv3d(width, code_width, 1)])
        self.codebook = Codebook(codes, code_width, decay)
        self.decoder = nn.Sequential(nn.Conv3d(code_width, width, 1), Stack(width, depth, attention))
        for i, step in enumerate(steps):
            last = i == len(steps) - 1
            self.decoder.append(Transposed(width, clip.channels if last else width, 4, step))
            if not last:
                self.decoder.append(nn.ReLU())
        if not steps:
            self.decoder.append(Conv(width, clip.channels, 3))

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        codes = len(self.codebook.vectors)
        yield LatentFact(self.code_width, self.stride, grid, codebook=codes, mixed=self.clip.mixed)  # type: ignore[arg-type]

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        t, h, w = self.stride
        return Grid(-(-frames // t), -(-size[0] // h), -(-size[1] // w))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        t, h, w = self.stride
        return grid.frames * t, grid.rows * h, grid.columns * w

    def encode(self, video: Tensor) -> Latents:
        z = self._encoded(video)
        flat = rearrange(z, "b c t h w -> (b t h w) c")
        return Latents(nearest(flat, self.codebook.vectors).view(len(z), *z.shape[2:]), ids=True)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return self._decoded(self.codebook.look_up(latents.values))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        quantised, _, commitment = self.codebook(self._encoded(video), draw)
        return Reconstruction(self._decoded(quantised), {"commitment": commitment})

    def codes(self) -> Tensor:
        return self.codebook.vectors

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Sets the codebook to encodings of training clips."""
        self.codebook.start_at(encodings(self._encoded, batches))

    def _encoded(self, video: Tensor) -> Tensor:
        frames, *size = video.shape[2:]
        if not self.covers(frames, (size[0], size[1])):
            t, h, w = self.stride
            raise ShapeError(f"videogpt_vq codes multiples of {t} x {h} x {w}; got {frames} of {size[0]} x {size[1]}")
        return self.encoder(video / 2)

    def _decoded(self, z: Tensor) -> Tensor:
        return self.decoder(z) * 2


def _steps(stride: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """The stride of each strided convolution: every axis is halved until it is done."""
    left = [int(math.log2(s)) for s in stride]
    steps = []
    while any(left):
        steps.append(tuple(2 if n else 1 for n in left))
        left = [max(n - 1, 0) for n in left]
    return steps


class Conv(nn.Module):
    """A convolution padded so that a stride divides the size exactly, more in front where padding is odd."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: tuple[int, int, int] = (1, 1, 1), bias: bool = True
    ) -> None:
        super().__init__()
        self.pad = _padding(kernel, stride)
        self.conv = nn.Conv3d(channels, out, kernel, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.pad))


class Transposed(nn.Module):
    """The convolution that undoes the size of `Conv`."""

    def __init__(self, channels: int, out: int, kernel: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.pad = _padding(kernel, stride)
        self.conv = nn.ConvTranspose3d(channels, out, kernel, stride, padding=kernel - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.pad))


def _padding(kernel: int, stride: tuple[int, int, int]) -> list[int]:
    """Padding for `F.pad`, columns first."""
    pad: list[int] = []
    for s in reversed(stride):
        pad += [(kernel - s + 1) // 2, (kernel - s) // 2]
    return pad


class Stack(nn.Sequential):
    """Residual blocks, batch norm and ReLU."""

    def __init__(self, width: int, depth: int, attention: bool) -> None:
        super().__init__(*(Residual(width, attention) for _ in range(depth)), nn.BatchNorm3d(width), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions through half the width, then axial attention unless it is off, beside the identity."""

    def __init__(self, width: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.BatchNorm3d(width), nn.ReLU(), Conv(width, width // 2, 3, bias=False),
            nn.BatchNorm3d(width // 2), nn.ReLU(), Conv(width // 2, width, 1, bias=False),
        )  # fmt: skip
        if attention:
            self.block.extend([nn.BatchNorm3d(width), nn.ReLU(), Axial(width)])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Axial(nn.Module):
    """Attention along columns, rows and time, each from the same input, summed."""

    AXES = ("b c t h w -> (b t h) w c", "b c t h w -> (b t w) h c", "b c t h w -> (b h w) t c")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.along = nn.ModuleList(AxisAttention(width) for _ in self.AXES)

    def forward(self, x: Tensor) -> Tensor:
        sizes = dict(zip("bcthw", x.shape, strict=True))
        total = torch.zeros_like(x)
        for axes, attention in zip(self.AXES, self.along, strict=True):
            whole, lines = axes.split(" -> ")
            mixed = attention(rearrange(x, axes))
            total = total + rearrange(mixed, f"{lines} -> {whole}", **{k: sizes[k] for k in "bthw" if k in lines})
        return total


class AxisAttention(nn.Module):
    """Attention over lines; no bias but the last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "m n (three h d) -> three m h n d", three=3, h=HEADS).unbind(0)
        return self.out(rearrange(scaled_attention(q, k, v), "m h n d -> m n (h d)"))
