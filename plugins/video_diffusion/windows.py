"""Attention within windows of a grid of tokens, with a learned bias of relative places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.layers.attention import CrossAttention, scaled_attention

Window = tuple[int, int, int]
"""Frames, rows, columns."""
SPREAD = 0.02
"""Standard deviation of the biases at first."""


class Windows:
    """A grid cut into windows that do not overlap; one as large as the grid where that is smaller.

    What a grid lacks to a whole number of windows is filled with places that nobody attends to.
    """

    def __init__(self, grid: tuple[int, int, int], window: Window) -> None:
        self.grid = grid
        self.window: Window = tuple(min(n, w) for n, w in zip(grid, window, strict=True))  # type: ignore[assignment]
        self.counts = tuple(-(-n // w) for n, w in zip(grid, self.window, strict=True))
        self.lacks = tuple(c * w - n for n, w, c in zip(grid, self.window, self.counts, strict=True))

    def cut(self, x: Tensor) -> Tensor:
        """B (t h w) D to (B windows) places D."""
        t, h, w = self.grid
        x = rearrange(x, "b (t h w) d -> b t h w d", t=t, h=h, w=w)
        if any(self.lacks):
            x = F.pad(x, (0, 0, 0, self.lacks[2], 0, self.lacks[1], 0, self.lacks[0]))
        i, j, k = self.window
        return rearrange(x, "b (t i) (h j) (w k) d -> (b t h w) (i j k) d", i=i, j=j, k=k)

    def join(self, x: Tensor) -> Tensor:
        """(B windows) places D to B (t h w) D."""
        (t, h, w), (i, j, _) = self.counts, self.window
        x = rearrange(x, "(b t h w) (i j k) d -> b (t i) (h j) (w k) d", t=t, h=h, w=w, i=i, j=j)
        return x[:, : self.grid[0], : self.grid[1], : self.grid[2]].flatten(1, 3)

    def real(self, clips: int, device: torch.device) -> Tensor | None:
        """(clips windows) 1 1 places, true for places of the grid; None where all are."""
        if not any(self.lacks):
            return None
        t, h, w = self.grid
        there = torch.ones(1, t * h * w, 1, dtype=torch.bool, device=device)
        return self.cut(there)[..., 0].repeat(clips, 1)[:, None, None]

    def relative(self, most: Window, device: torch.device) -> Tensor:
        """places x places: the number of each relative place in a table for windows of `most`."""
        axes = [torch.arange(n, device=device) for n in self.window]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
        t, h, w = (place[:, None] - place[None, :]).unbind(-1)
        _, b, c = most
        return ((t + most[0] - 1) * (2 * b - 1) + h + b - 1) * (2 * c - 1) + w + c - 1


class WindowAttention(nn.Module):
    """Self-attention within windows: queries and keys of unit root mean square, a bias for every relative place.

    Gupta et al. 2023, sec. 3.2, arXiv:2312.06662; the norms after Dehghani et al. 2023, arXiv:2302.05442. The table
    has (2a - 1)(2b - 1)(2c - 1) biases per head for windows of a, b, c. Raises ValueError where heads do not divide
    the width.
    """

    def __init__(self, width: int, heads: int, window: Window) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: {heads} heads do not divide a width of {width}")
        self.heads, self.window = heads, window
        a, b, c = (2 * n - 1 for n in window)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_scale = nn.Parameter(torch.ones(width // heads))
        self.k_scale = nn.Parameter(torch.ones(width // heads))
        self.bias = nn.Parameter(torch.empty(heads, a * b * c))
        nn.init.normal_(self.bias, std=SPREAD)

    def forward(self, x: Tensor, windows: Windows, clips: int) -> Tensor:
        """(clips windows) places D to the same."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads).unbind(0)
        q, k = (F.rms_norm(y, y.shape[-1:]) * scale for y, scale in ((q, self.q_scale), (k, self.k_scale)))
        bias = self.bias[:, windows.relative(self.window, x.device)][None]
        real = windows.real(clips, x.device)
        if real is not None:
            bias = torch.where(real, bias, float("-inf"))
        mixed = scaled_attention(q.to(v.dtype), k.to(v.dtype), v, mask=bias.to(v.dtype))
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))

    def alone(self, x: Tensor) -> Tensor:
        """... D to ... D where every place attends to itself alone: its own value."""
        values = F.linear(x, *(p.chunk(3)[2] for p in (self.qkv.weight, self.qkv.bias)))
        return self.out(values)


class PromptAttention(nn.Module):
    """Places attend to the places of their window and to the prompt, as one sequence of keys. Its sec. 3.4."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(width, width, heads)

    def forward(self, x: Tensor, windows: Windows, prompt: Tensor, mask: Tensor | None) -> Tensor:
        """x: (clips windows) places D. prompt: clips L D; mask: clips L, true = a real token."""
        clips, length, count = *prompt.shape[:2], len(x) // len(prompt)
        keys = torch.cat([x, prompt.repeat_interleave(count, dim=0).to(x.dtype)], dim=1)
        real = windows.real(clips, x.device)
        if mask is None and real is None:
            return self.attention(x, keys)
        if real is None:
            real = torch.ones(len(x), 1, 1, x.shape[1], dtype=torch.bool, device=x.device)
        if mask is None:
            mask = torch.ones(clips, length, dtype=torch.bool, device=x.device)
        told = mask.repeat_interleave(count, dim=0)[:, None, None]
        return self.attention(x, keys, torch.cat([real, told], dim=-1))
