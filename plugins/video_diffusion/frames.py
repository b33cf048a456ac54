"""Layers that mix frames at each place: attention over time, convolution over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.norms import GroupNorm

EPS = 1e-5


class TimeAttention(nn.Module):
    """x + attention over the frames of each place, with a bias of relative times; the identity at first.

    Ho et al. 2022, sec. 3, arXiv:2204.03458: the bias is by the distance of frames, learned for those of a training
    clip; frames further apart count as that far. An image's one frame attends to itself. Raises ValueError where heads
    do not divide the channels.
    """

    def __init__(self, channels: int, heads: int, frames: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads: {heads} heads do not divide {channels} channels")
        self.heads, self.reach = heads, frames - 1
        self.norm = nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * frames - 1))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W."""
        t, h = x.shape[2:4]
        rows = rearrange(x, "b c t h w -> (b h w) t c")
        q, k, v = rearrange(self.qkv(self.norm(rows)), "b t (three n d) -> three b n t d", three=3, n=self.heads)
        time = torch.arange(t, device=x.device)
        apart = (time[:, None] - time[None]).clamp(-self.reach, self.reach) + self.reach
        bias = self.bias[:, apart][None].to(q.dtype)
        mixed = scaled_attention(q, k, v, mask=bias)
        mixed = self.out(rearrange(mixed, "b n t d -> b t (n d)"))
        return x + rearrange(mixed, "(b h w) t c -> b c t h w", b=len(x), h=h)


class TimeConvolution(nn.Module):
    """x + a convolution over three frames at each place; the identity at first. An image's frame passes unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, EPS)
        self.conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W."""
        if x.shape[2] == 1:
            return x
        # Each frame has its own statistics, so that only the convolution looks at other frames.
        flat = self.norm(rearrange(x, "b c t h w -> (b t) c h w"))
        return x + self.conv(F.silu(rearrange(flat, "(b t) c h w -> b c t h w", b=len(x))))
