"""What the token denoisers share: how ids and what is said of a clip become rows, and rows become logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, Need
from mutoscope.core.layers.masked import Layout, Rollout, cell_of
from mutoscope.core.values import Conditioning, Tokens

InOrder = Need("ids predicted in raster order, each from those before it", lambda process: process.causal)
AnyOrder = Need("ids predicted in any order, from whatever is known", lambda process: process.hole is not None)

FLOAT = 4
"""Bytes of a key's or value's feature."""


def reading(tokens: Tokens, layout: Layout, since: int) -> tuple[Tensor, slice]:
    """The ids that rows since, since + 1, ... read, B R, and the numbers of their cells.

    Nothing reads the last id of a causal stream. During a rollout, tokens hold the ids decided so far.
    """
    ids = tokens.filled()
    cells = slice(max(since - layout.prefix, 0), min(ids.shape[1], layout.grid.cells - layout.causal))
    return ids[:, cells], cells


def predicting(x: Tensor, layout: Layout, cache: Rollout | None) -> Tensor:
    """Of the rows computed those that predict: one for each cell, or the next cell's alone in a rollout."""
    return x[:, -1:] if cache is not None else x[:, layout.prefix - layout.causal :]


def check_room(name: str, layout: Layout, rows: int) -> None:
    """Raises InputError where a stream is longer than a table of positions."""
    if layout.rows > rows:
        t, h, w = layout.grid
        raise InputError(
            field="size",
            problem=f"{name} has learned {rows} positions",
            got=f"{layout.rows}, {layout.prefix} before the {t} x {h} x {w} tokens",
            allowed="as many tokens as in training, or fewer",
        )


def check_grid(name: str, grid: tuple[int, int, int], most: tuple[int, int, int]) -> None:
    """Raises InputError where a grid is longer along an axis than tables of positions."""
    if any(n > m for n, m in zip(grid, most, strict=True)):
        shown = " x ".join(map(str, most))
        raise InputError(field="size", problem=f"{name} has learned {shown} positions", got=" x ".join(map(str, grid)))


def rollout_bytes(layout: Layout, layers: int, width: int, clips: int) -> int:
    """Bytes of the keys and values of a whole rollout. width: of both together, over all heads."""
    return layers * width * layout.rows * clips * FLOAT


class Told(nn.Module):
    """What is said of a clip beside its prompt: one vector in the start row, one per frame where that is predicted.

    learned: the start row has a vector of its own. A prompt's features count as one vector, their mean, where no
    pooled one is given and `pooling` says so.
    """

    def __init__(self, given: ConditioningFact, width: int, learned: bool = True, pooling: bool = False) -> None:
        super().__init__()
        self.width = width
        self.own = nn.Parameter(0.02 * torch.randn(width)) if learned else None
        self.pooling = pooling and given.sequence > 0 and given.pooled == 0
        told = given.sequence if self.pooling else given.pooled
        self.pooled = nn.Linear(told, width, bias=False) if told else None
        self.per_frame = nn.Linear(given.per_frame, width, bias=False) if given.per_frame else None

    def start(self, tokens: Tokens, conditioning: Conditioning) -> Tensor:
        """The start row, B 1 D."""
        row = torch.zeros(len(tokens), self.width, device=tokens.device)
        if self.own is not None:
            row = row + self.own
        vector = mean_of(conditioning) if self.pooling else conditioning.pooled
        if self.pooled is not None and vector is not None:
            row = row + self.pooled(vector)
        return row[:, None]

    def frames(self, conditioning: Conditioning, layout: Layout, since: int, rows: int) -> Tensor | float:
        """What is added to rows since ... since + rows - 1: the vector of the frame that each predicts, B R D."""
        if self.per_frame is None or conditioning.per_frame is None:
            return 0.0
        told = self.per_frame(conditioning.per_frame)
        row = torch.arange(since, since + rows, device=told.device)
        frame, _, _ = cell_of((row - layout.prefix + int(layout.causal)).clamp(min=0), layout.grid)
        return told[:, frame.clamp(max=told.shape[1] - 1)]


def mean_of(conditioning: Conditioning) -> Tensor | None:
    """The mean of a prompt's features, K D."""
    if conditioning.sequence is None:
        return None
    if conditioning.mask is None:
        return conditioning.sequence.mean(1)
    real = conditioning.mask[..., None].to(conditioning.sequence.dtype)
    return (conditioning.sequence * real).sum(1) / real.sum(1).clamp(min=1)


class GridPositions(nn.Module):
    """Learned vectors of a cell's frame, row and column, added (Wu et al. 2022, sec. 3.2; Ramesh et al. 2021)."""

    def __init__(self, grid: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.most = tuple(grid)
        self.tables = nn.ParameterList(nn.Parameter(0.02 * torch.randn(n, width)) for n in grid)

    def forward(self, cells: slice, layout: Layout) -> Tensor:
        """R D of the cells with these numbers."""
        numbers = torch.arange(cells.start, cells.stop, device=self.tables[0].device)
        places = cell_of(numbers, layout.grid)
        return sum(table[place] for table, place in zip(self.tables, places, strict=True))  # type: ignore[return-value]
