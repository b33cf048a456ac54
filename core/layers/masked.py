"""Attention within a pattern: who may look at whom, said once and used by every kernel.

Rows of a stream are what a transformer computes on: first a prefix (a start row, a prompt), then the cells of a grid
in raster order; row prefix + c reads the token of cell c. In a causal stream a row predicts the cell after the one it
reads, and the last row of the prefix predicts cell 0; in a stream that sees everything it predicts its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.values import Grid


class Layout(NamedTuple):
    """prefix: rows before the first cell. grid: the cells. causal: whether a row sees only itself and rows before."""

    prefix: int
    grid: Grid
    causal: bool = True

    @property
    def rows(self) -> int:
        """Rows of the whole stream; nothing is predicted from the last cell of a causal one, so it has no row."""
        return self.prefix + self.grid.cells - self.causal


class Pattern(ABC):
    """Which rows see which; frozen and hashable. Elementwise, so that it serves as a mask function of FlexAttention."""

    @abstractmethod
    def sees(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        """Booleans for row numbers q and k, which broadcast; causality left aside."""

    def allows(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        """As `sees`, without later rows where the stream is causal."""
        seen = self.sees(q, k, layout)
        return seen & (k <= q) if layout.causal else seen


@dataclass(frozen=True)
class Dense(Pattern):
    """Everything sees everything. Vaswani et al. 2017, sec. 3.2."""

    def sees(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        return (q >= 0) & (k >= 0)


@dataclass(frozen=True)
class Banded(Pattern):
    """A row sees `reach` rows, itself included. Child et al. 2019, arXiv:1904.10509, local attention; GPT-3's sparse
    layers (Brown et al. 2020, sec. 2.1)."""

    reach: int

    def sees(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        return (q - k).abs() < self.reach


class OfCells(Pattern):
    """A pattern among cells: every row sees the prefix, and rows of the prefix see the prefix alone."""

    @abstractmethod
    def near(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        """Booleans for the cells that rows read, by number in raster order."""

    def sees(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        p = layout.prefix
        return (k < p) | ((q >= p) & (k >= p) & self.near(q - p, k - p, layout))


@dataclass(frozen=True)
class RowPattern(OfCells):
    """A cell sees itself and one row's length of cells before it, the one above it included.

    Ramesh et al. 2021, fig. 11a, arXiv:2102.12092. Frames stand above each other.
    """

    def near(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        return (q - k).abs() <= layout.grid.columns


@dataclass(frozen=True)
class ColumnPattern(OfCells):
    """A cell sees its own column, of every frame. Ramesh et al. 2021, fig. 11b."""

    def near(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        return (q - k) % layout.grid.columns == 0


@dataclass(frozen=True)
class WindowPattern(OfCells):
    """A cell sees a square of `size` cells around it, in every frame. Ramesh et al. 2021, fig. 11d."""

    size: int

    def near(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        (_, i, j), (_, y, x) = cell_of(q, layout.grid), cell_of(k, layout.grid)
        return ((i - y).abs() <= self.size // 2) & ((j - x).abs() <= self.size // 2)


@dataclass(frozen=True)
class NearbyPattern(Pattern):
    """A cell sees those at most so many frames, rows and columns away. Wu et al. 2022, eq. 3, arXiv:2111.12417.

    The centre is the cell that a row predicts, not the one it reads, so that what lies above it and in the frame before
    it is near. The prefix is seen by all; a row's own input reaches its output around the attention, as anywhere.
    reach: radii along time, rows and columns.
    """

    reach: tuple[int, int, int]

    def sees(self, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
        p = layout.prefix
        centre, other = cell_of(q - p + int(layout.causal), layout.grid), cell_of(k - p, layout.grid)
        near = (k >= p) & (q - p + int(layout.causal) >= 0)
        for a, b, radius in zip(centre, other, self.reach, strict=True):
            near = near & ((a - b).abs() <= radius)
        return (k < p) | near


def cell_of(number: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Frame, row and column of a cell by its number in raster order."""
    plane = grid.rows * grid.columns
    return number // plane, number % plane // grid.columns, number % grid.columns


class Masks:
    """The patterns of one stream as tensors; each is made once."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout, self.device = layout, device
        self._dense: dict[Pattern, Tensor] = {}
        self._blocks: dict[Pattern, Any] = {}

    def dense(self, pattern: Pattern) -> Tensor:
        """rows x rows, true where row q (first) sees row k."""
        if pattern not in self._dense:
            rows = torch.arange(self.layout.rows, device=self.device)
            self._dense[pattern] = pattern.allows(rows[:, None], rows[None, :], self.layout)
        return self._dense[pattern]

    def blocks(self, pattern: Pattern) -> Any:
        """The same for FlexAttention, which skips the blocks where nothing is seen."""
        if pattern not in self._blocks:
            from torch.nn.attention.flex_attention import create_block_mask

            def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                return pattern.allows(q, k, self.layout)

            rows = self.layout.rows
            self._blocks[pattern] = create_block_mask(seen, None, None, rows, rows, device=str(self.device))
        return self._blocks[pattern]


def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, masks: Masks, since: int = 0) -> Tensor:
    """B H R D queries of rows since, since + 1, ... over B H S D keys of all rows up to the last of them.

    FlexAttention on a GPU, where it compiles to one kernel; elsewhere a dense mask, equal to rounding.
    """
    causal = masks.layout.causal
    if pattern == Dense():
        if not causal or q.shape[2] == 1:
            return scaled_attention(q, k, v)
        if since == 0:
            return scaled_attention(q, k, v, causal=True)
    elif since == 0 and q.is_cuda and q.shape[2] == masks.layout.rows and not torch.compiler.is_compiling():
        return attend_by_blocks(q, k, v, masks.blocks(pattern))
    mask = masks.dense(pattern)[since : since + q.shape[2], : k.shape[2]]
    return scaled_attention(q, k, v, mask=mask)


def attend_by_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: Any, compiled: bool = True) -> Tensor:
    """FlexAttention (Dong et al. 2024, arXiv:2412.05496) within a block mask. compiled: as one kernel."""
    from torch.nn.attention.flex_attention import flex_attention

    return (_flex() if compiled else flex_attention)(q, k, v, block_mask=blocks)  # type: ignore[return-value]


@cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


class Memory:
    """The keys and values of one layer for the rows so far, in memory reserved for all of them."""

    def __init__(self, rows: int) -> None:
        self.rows, self.filled = rows, 0
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds B H R D keys and values of the next rows; gives those of all rows so far."""
        if self.k is None or self.v is None:
            self.k, self.v = (y.new_empty(*y.shape[:2], self.rows, y.shape[3]) for y in (k, v))
        end = self.filled + k.shape[2]
        self.k[:, :, self.filled : end] = k
        self.v[:, :, self.filled : end] = v
        self.filled = end
        return self.k[:, :, :end], self.v[:, :, :end]


class Rollout:
    """The cache of a causal rollout: a memory for each layer, the masks, and what was made of the conditioning."""

    def __init__(self, layout: Layout, layers: int, device: torch.device) -> None:
        self.masks = Masks(layout, device)
        self.memories = [Memory(layout.rows) for _ in range(layers)]
        self.told: Any = None

    @property
    def rows(self) -> int:
        """Rows done."""
        return self.memories[0].filled


class MaskedAttention(nn.Module):
    """Multi-head self-attention within a pattern, with a memory where rows come one by one.

    key_width: of a head's queries and keys; by default that of its values, the width over the heads. bias: of all four
    projections; out_bias: of the last. Raises ValueError where heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        pattern: Pattern,
        key_width: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
    ) -> None:
        super().__init__()
        keys = heads * (key_width or dividing(heads, width))
        self.heads, self.pattern, self.widths = heads, pattern, (keys, keys, width)
        self.qkv = nn.Linear(width, 2 * keys + width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias if out_bias is None else out_bias)

    def forward(self, x: Tensor, masks: Masks, memory: Memory | None = None) -> Tensor:
        """B R D to B R D."""
        q, k, v = (per_head(y, self.heads) for y in self.qkv(x).split(self.widths, dim=-1))
        since = 0
        if memory is not None:
            since = memory.filled
            k, v = memory.append(k, v)
        mixed = attend(q, k, v, self.pattern, masks, since)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class ContextAttention(nn.Module):
    """Rows attend to a context, whose keys and values are made once and kept. key_width, bias: as above."""

    def __init__(self, width: int, heads: int, key_width: int | None = None, bias: bool = True) -> None:
        super().__init__()
        keys = heads * (key_width or dividing(heads, width))
        self.heads, self.widths = heads, (keys, width)
        self.q = nn.Linear(width, keys, bias=bias)
        self.kv = nn.Linear(width, keys + width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """B L D to keys and values, B H L d each."""
        k, v = (per_head(y, self.heads) for y in self.kv(context).split(self.widths, dim=-1))
        return k, v

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """B R D. mask: booleans that broadcast to B H R L, true where attention is allowed."""
        q = per_head(self.q(x), self.heads)
        return self.out(rearrange(scaled_attention(q, *keys, mask=mask), "b h n d -> b n (h d)"))


def per_head(x: Tensor, heads: int) -> Tensor:
    """B N (H d) to B H N d."""
    return rearrange(x, "b n (h d) -> b h n d", h=heads)


def dividing(heads: int, width: int) -> int:
    """The width of a head. Raises ValueError where heads do not divide the width."""
    if width % heads:
        raise ValueError(f"heads: {heads} heads do not divide a width of {width}")
    return width // heads
