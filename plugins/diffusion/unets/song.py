"""The U-Net of score-based models as EDM reimplements it: what `ddpmpp` and `ncsnpp` share. Pictures B C H W.

Song et al. 2021, app. H, arXiv:2011.13456; Karras et al. 2022, table 7 and app. F.1, arXiv:2206.00364. The two networks
differ in the level's embedding, in the filter that changes sizes, and in whether the input is led in again at every
level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.facts import ConditioningFact
from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.norms import GroupNorm

EPS = 1e-6
HALF = math.sqrt(0.5)
"""What sums of two signals are multiplied with, so that their variance stays (app. F.1)."""


class Body(nn.Module):
    """From pictures and an embedded level to pictures.

    given: widths of what is told. noise: width of the level's embedding. taps: of the filter that halves and doubles,
    [1, 1] or [1, 3, 3, 1]. pyramid: lead the input in at every level, by strided convolutions. attend: strides at which
    places attend to each other, on the way up only in the last block of the level.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        given: ConditioningFact,
        noise: int,
        width: int,
        multipliers: Sequence[int],
        depth: int,
        attend: Sequence[int],
        dropout: float,
        taps: Sequence[int],
        pyramid: bool,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers: a U-Net has at least one level")
        told, widths = 4 * width, [width * m for m in multipliers]
        self.told = Told(given, noise, told)
        self.embed = _conv(channels, width)
        self.down, self.lead, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        skips, before = [width], width
        for level, now in enumerate(widths):
            blocks = nn.ModuleList()
            if level:
                blocks.append(Block(before, before, told, dropout, taps, "down"))
                self.lead.append(Lead(channels, before, taps) if pyramid else nn.Identity())
                channels = before
                skips.append(before)
            for _ in range(depth):
                blocks.append(Block(before, now, told, dropout, taps, attend=2**level in attend))
                skips.append(now)
                before = now
            self.down.append(blocks)
        self.pyramid = pyramid
        for level in range(len(widths) - 1, -1, -1):
            blocks = nn.ModuleList()
            if level == len(widths) - 1:
                blocks.append(Block(before, before, told, dropout, taps, attend=True))
                blocks.append(Block(before, before, told, dropout, taps))
            else:
                blocks.append(Block(before, before, told, dropout, taps, "up"))
            for i in range(depth + 1):
                attends = i == depth and 2**level in attend
                blocks.append(Block(before + skips.pop(), widths[level], told, dropout, taps, attend=attends))
                before = widths[level]
            self.up.append(blocks)
        self.norm = GroupNorm(before, EPS)
        self.out = _small(_conv(before, out))

    def forward(
        self, x: Tensor, level: Tensor, pooled: Tensor | None, per_frame: Tensor | None, augmented: Tensor | None
    ) -> Tensor:
        """x: B C H W. level: B noise. pooled, per_frame, augmented: B D."""
        told, lead = self.told(level, pooled, per_frame, augmented), x
        x = self.embed(x)
        kept = [x]
        for number, blocks in enumerate(self.down):
            for i, block in enumerate(blocks):  # type: ignore[arg-type]
                x = block(x, told)
                if number and i == 0 and self.pyramid:
                    x = lead = (x + self.lead[number - 1](lead)) * HALF
                kept.append(x)
        deepest = 2
        for blocks in self.up:
            for i, block in enumerate(blocks):  # type: ignore[arg-type]
                if i >= deepest:
                    x = torch.cat([x, kept.pop()], dim=1)
                x = block(x, told, tuple(kept[-1].shape[2:]) if kept else None)
            deepest = 1
        return self.out(F.silu(self.norm(x)))


class Told(nn.Module):
    """The embedded level and what is said of the clip, through two layers. The class counts as a one-hot vector."""

    def __init__(self, given: ConditioningFact, noise: int, out: int) -> None:
        super().__init__()
        self.pooled = _xavier(nn.Linear(given.pooled, noise)) if given.pooled else None
        self.per_frame = _xavier(nn.Linear(given.per_frame, noise)) if given.per_frame else None
        self.augmented = _xavier(nn.Linear(given.augmented, noise, bias=False)) if given.augmented else None
        self.layers = nn.ModuleList([_xavier(nn.Linear(noise, out)), _xavier(nn.Linear(out, out))])

    def forward(
        self, level: Tensor, pooled: Tensor | None, per_frame: Tensor | None, augmented: Tensor | None
    ) -> Tensor:
        told = level.to(self.layers[0].weight.dtype)  # type: ignore[arg-type]
        for layer, said in ((self.pooled, pooled), (self.per_frame, per_frame)):
            if layer is not None and said is not None:
                # A one-hot vector has mean square 1 / width.
                told = told + layer(said * math.sqrt(said.shape[-1]))
        if self.augmented is not None and augmented is not None:
            told = told + self.augmented(augmented)
        for layer in self.layers:
            told = F.silu(layer(told))
        return told


class Block(nn.Module):
    """A residual block with the level added between its convolutions, then attention with one head where asked for."""

    def __init__(
        self,
        channels: int,
        out: int,
        told: int,
        dropout: float,
        taps: Sequence[int],
        resample: str = "none",
        attend: bool = False,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = GroupNorm(channels, EPS)
        self.conv1 = _conv(channels, out)
        self.told = _xavier(nn.Linear(told, out))
        self.norm2 = GroupNorm(out, EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _small(_conv(out, out))
        changes = channels != out or resample != "none"
        self.skip = _conv(channels, out, 1) if changes else nn.Identity()
        self.filter = Filter(taps) if resample != "none" else None
        self.attention = Attention(out) if attend else None

    def forward(self, x: Tensor, told: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.filter is not None:
            x, h = (self.filter.halved(x), self.filter.halved(h)) if self.resample == "down" else (
                self.filter.doubled(x, size), self.filter.doubled(h, size))  # fmt: skip
        h = self.conv1(h) + self.told(told)[..., None, None]
        x = (self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))) * HALF
        return x if self.attention is None else self.attention(x)


class Attention(nn.Module):
    """(x + attention(norm(x))) sqrt(1/2), over the places of a picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, EPS)
        self.qkv = _conv(channels, 3 * channels, 1, gain=0.2)
        self.out = _small(_conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three c) h w -> three b 1 (h w) c", three=3).unbind(0)
        seen = rearrange(scaled_attention(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2])
        return (x + self.out(seen)) * HALF


class Lead(nn.Module):
    """The input, or what the last level made of it, filtered and halved by a convolution: the residual pyramid."""

    def __init__(self, channels: int, out: int, taps: Sequence[int]) -> None:
        super().__init__()
        self.conv = _conv(channels, out)
        self.filter = Filter(taps)

    def forward(self, x: Tensor) -> Tensor:
        return self.filter.halved(self.conv(_even(x)))


class Filter(nn.Module):
    """Halves and doubles pictures by a separable filter of unit sum; sizes that are odd are rounded up when halved."""

    kernel: Tensor

    def __init__(self, taps: Sequence[int]) -> None:
        super().__init__()
        line = torch.tensor([float(tap) for tap in taps])
        self.register_buffer("kernel", torch.outer(line, line)[None, None] / sum(taps) ** 2, persistent=False)
        self.pad = (len(taps) - 1) // 2

    def halved(self, x: Tensor) -> Tensor:
        x = _even(x)
        return F.conv2d(x, self._kernels(x), stride=2, padding=self.pad, groups=x.shape[1])

    def doubled(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        kernels = 4 * self._kernels(x)
        x = F.conv_transpose2d(x, kernels, stride=2, padding=self.pad, groups=x.shape[1])
        return x if size is None else x[..., : size[0], : size[1]]

    def _kernels(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)


def _even(x: Tensor) -> Tensor:
    """The last row and column again where their number is odd."""
    h, w = x.shape[2] % 2, x.shape[3] % 2
    return F.pad(x, (0, w, 0, h), mode="replicate") if h or w else x


def _conv(channels: int, out: int, kernel: int = 3, gain: float = 1.0) -> nn.Conv2d:
    layer = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(layer.weight, math.sqrt(gain))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _small(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights so small that what it ends is almost silent at first."""
    nn.init.xavier_uniform_(layer.weight, 1e-5)
    return layer


def _xavier(layer: nn.Linear) -> nn.Linear:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
