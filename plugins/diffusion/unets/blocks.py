"""Blocks of the U-Nets that descend from DDPM's: norms, residual blocks, attention, resampling. Pictures B C H W."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.facts import ConditioningFact
from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.norms import GroupNorm

Modulate = Literal["scale_shift", "add"]
"""How the level enters a residual block: GN(h)(1 + w) + b, or added between the convolutions."""
Resample = Literal["none", "down", "up"]
L = TypeVar("L", nn.Conv2d, nn.Linear)


def silenced(layer: L) -> L:
    """The layer with zero weights, so that what it ends is silent at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Residual(nn.Module):
    """norm, SiLU, convolution, level, norm, SiLU, dropout, zero convolution; plus the input.

    Ho et al. 2020, app. B, with the scale and shift of Nichol & Dhariwal 2021, sec. 2, or the addition of the former.
    resample: halve or double rows and columns, of both branches, after the first norm (the blocks of BigGAN, Dhariwal &
    Nichol 2021, sec. 3). told: width of what the block is told.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        told: int,
        modulate: Modulate = "scale_shift",
        resample: Resample = "none",
        dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.scales, self.resample = modulate == "scale_shift", resample
        self.norm1 = GroupNorm(channels, eps)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.told = nn.Linear(told, 2 * out if self.scales else out)
        self.norm2 = GroupNorm(out, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = silenced(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, told: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """told: B told, after its activation. size: rows and columns to double to."""
        h = F.silu(self.norm1(x))
        if self.resample == "down":
            x, h = halved(x), halved(h)
        elif self.resample == "up":
            x, h = doubled(x, size), doubled(h, size)
        h, said = self.conv1(h), self.told(told)[..., None, None]
        if self.scales:
            scale, shift = said.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + said)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Self-attention over the places of a picture, the identity at first. Ho et al. 2020, app. B.

    Raises ValueError where heads do not divide the channels.
    """

    def __init__(self, channels: int, heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads: {heads} heads do not divide {channels} channels")
        self.heads = heads
        self.norm = GroupNorm(channels, eps)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), silenced(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """B C H W to the same; it has no use for a context."""
        cells = rearrange(self.norm(x), "b c y x -> b (y x) c")
        q, k, v = rearrange(self.qkv(cells), "b n (three h d) -> three b h n d", three=3, h=self.heads).unbind(0)
        seen = self.out(rearrange(scaled_attention(q, k, v), "b h n d -> b n (h d)"))
        return x + rearrange(seen, "b (y x) c -> b c y x", y=x.shape[2])


class Halve(nn.Module):
    """A convolution of stride 2. same: padded as TensorFlow does, by one row and column at the end; else all around."""

    def __init__(self, channels: int, same: bool = False) -> None:
        super().__init__()
        self.same = same
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if same else 1)

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """B C H W to half the rows and columns, rounded up."""
        if self.same:
            h, w = (n % 2 for n in x.shape[2:])
            x = F.pad(x, (w, 1, h, 1))
        return self.conv(x)


class Double(nn.Module):
    """Every place repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, told: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
        return self.conv(doubled(x, size))


def halved(x: Tensor) -> Tensor:
    """Means of two by two places, of fewer at an odd edge."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def doubled(x: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Every place twice in rows and columns, or as often as makes `size`."""
    return F.interpolate(x, size=size or (2 * x.shape[2], 2 * x.shape[3]), mode="nearest")


class Told(nn.Module):
    """What the blocks are told: the level's embedding through two layers, and the pooled conditioning added to it.

    A class is a one-hot vector or any other pooled one; its layer without bias is then the paper's table.
    """

    def __init__(self, given: ConditioningFact, width: int, out: int) -> None:
        super().__init__()
        self.level = nn.Sequential(nn.Linear(width, out), nn.SiLU(), nn.Linear(out, out))
        self.pooled = nn.Linear(given.pooled, out, bias=False) if given.pooled else None
        self.per_frame = nn.Linear(given.per_frame, out, bias=False) if given.per_frame else None

    def forward(self, level: Tensor, pooled: Tensor | None, per_frame: Tensor | None) -> Tensor:
        """level: B width. pooled, per_frame: B D. Gives B out, after the activation."""
        told = self.level(level.to(self.level[0].weight.dtype))  # type: ignore[arg-type]
        if self.pooled is not None and pooled is not None:
            told = told + self.pooled(pooled)
        if self.per_frame is not None and per_frame is not None:
            told = told + self.per_frame(per_frame)
        return F.silu(told)
