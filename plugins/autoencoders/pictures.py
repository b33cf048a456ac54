"""Encoder and decoder of the latent diffusion autoencoders, picture by picture. Esser et al. 2021; Rombach et al. 2022,
app. G, arXiv:2112.10752. Pictures B C H W."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.norms import GroupNorm

EPS = 1e-6


class Encoder(nn.Module):
    """Levels of residual blocks, halved between; two more blocks around attention; a convolution to `out` channels.

    widths: channels of the levels. depth: residual blocks per level. attend: levels (from 0) whose blocks are each
    followed by attention. middle: attention in the middle.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        width: int,
        widths: Sequence[int],
        depth: int,
        attend: Sequence[int],
        middle: bool,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, 3, padding=1)
        layers: list[nn.Module] = []
        before = width
        for level, now in enumerate(widths):
            for _ in range(depth):
                layers.append(Residual(before, now))
                layers += [Attention(now)] if level in attend else []
                before = now
            layers += [Halve(now)] if level < len(widths) - 1 else []
        self.down = nn.Sequential(*layers)
        self.middle = _middle(before, middle)
        self.norm = GroupNorm(before, EPS)
        self.out = nn.Conv2d(before, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.norm(self.middle(self.down(self.embed(x))))))


class Decoder(nn.Module):
    """The encoder mirrored, with one more residual block per level; its last layer is the last that it lists."""

    def __init__(
        self, channels: int, out: int, widths: Sequence[int], depth: int, attend: Sequence[int], middle: bool
    ) -> None:
        super().__init__()
        before = widths[-1]
        self.embed = nn.Conv2d(channels, before, 3, padding=1)
        self.middle = _middle(before, middle)
        layers: list[nn.Module] = []
        for level in range(len(widths) - 1, -1, -1):
            for _ in range(depth + 1):
                layers.append(Residual(before, widths[level]))
                layers += [Attention(widths[level])] if level in attend else []
                before = widths[level]
            layers += [Double(before)] if level else []
        self.up = nn.Sequential(*layers)
        self.norm = GroupNorm(before, EPS)
        self.out = nn.Conv2d(before, out, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return self.out(F.silu(self.norm(self.up(self.middle(self.embed(z))))))


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(channels, EPS), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(out, EPS), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Every place of a picture attends to every other, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = GroupNorm(width, EPS)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three c) h w -> three b 1 (h w) c", three=3).unbind(0)
        seen = scaled_attention(q, k, v)
        return x + self.out(rearrange(seen, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Halve(nn.Module):
    """A convolution of stride 2, padded by one row and column at the end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    """Every place four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def each_frame(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A network of pictures over every frame of B C T H W."""
    made = network(rearrange(x, "b c t h w -> (b t) c h w"))
    return rearrange(made, "(b t) c h w -> b c t h w", b=len(x))


def _middle(width: int, attends: bool) -> nn.Sequential:
    attention = [Attention(width)] if attends else []
    return nn.Sequential(Residual(width, width), *attention, Residual(width, width))
