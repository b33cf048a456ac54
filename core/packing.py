"""Clips of several sizes in rows of one length: who goes where, and back again.

Dehghani et al. 2023 (NaViT), sec. 2.1, arXiv:2307.06304: examples are packed greedily, first fit, and padded. Here a
row is at most so long, and rows are cut to what the fullest of them needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mutoscope.core.values import Grid, Tokens

ENOUGH = 0.005
"""Padding, as a share of the tokens, that is not worth a further try."""


class Packing(NamedTuple):
    """canvas: the packed rows without values. source: B N, where each token comes from: its place among the tokens of
    all clips laid end to end, counted from 1; 0 is padding."""

    canvas: Tokens
    source: Tensor

    def fill(self, clips: Sequence[Tensor]) -> Tokens:
        """The canvas with values: of each clip its kept tokens, n D, or n ids."""
        flat = torch.cat(list(clips))
        return self.canvas.with_values(torch.cat([torch.zeros_like(flat[:1]), flat])[self.source])


def rows_of(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Clips, by number from 0, dealt to rows of at most `most` tokens (of the longest clip, where that is longer).

    First fit, longest first, says how few rows will do. Of so many rows, and of somewhat more, the layout that wastes
    least is taken, each clip going, longest first, to the emptiest row.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    most = max(most, lengths[longest_first[0]])
    fitted: list[list[int]] = []
    room: list[int] = []
    for i in longest_first:
        row = next((r for r, free in enumerate(room) if free >= lengths[i]), None)
        if row is None:
            row = len(room)
            fitted.append([])
            room.append(most)
        fitted[row].append(i)
        room[row] -= lengths[i]
    best, least = fitted, _area(fitted, lengths)
    for count in range(len(fitted), min(2 * len(fitted), len(lengths)) + 1):
        if least <= (1 + ENOUGH) * sum(lengths):
            break
        even = _dealt(longest_first, lengths, count)
        if max(sum(lengths[i] for i in row) for row in even) <= most and _area(even, lengths) < least:
            best, least = even, _area(even, lengths)
    return best


def pack(
    grids: Sequence[Grid],
    most: int,
    kept: Sequence[np.ndarray] | None = None,
    device: torch.device | str | None = None,
) -> Packing:
    """Packed rows of at most `most` tokens for clips of these grids. kept: the cells of each clip that are not dropped,
    in order; by default all of them."""
    cells = list(kept) if kept is not None else [np.arange(grid.cells) for grid in grids]
    rows = rows_of([len(c) for c in cells], most)
    starts = np.concatenate([[0], np.cumsum([len(c) for c in cells])])
    length = max(sum(len(cells[i]) for i in row) for row in rows)
    source = np.zeros((len(rows), length), dtype=np.int64)
    members = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for r, row in enumerate(rows):
        laid = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in row]) + 1
        source[r, : len(laid)] = laid
        members[r, : len(row)] = np.array(row) + 1
    places = [np.stack(np.unravel_index(c, grid), axis=-1) for c, grid in zip(cells, grids, strict=True)]
    positions = np.concatenate([np.zeros((1, 3)), *places]).astype(np.float32)[source]
    clip = np.concatenate([[0], np.repeat(np.arange(1, len(grids) + 1), [len(c) for c in cells])])[source]
    on = [torch.from_numpy(x).to(device or "cpu") for x in (positions, clip, members, source)]
    return Packing(Tokens(None, on[0], on[1], tuple(grids), on[2]), on[3])


def unpack(tokens: Tokens) -> tuple[Tensor, ...]:
    """The clips of packed rows, each D T H W (T H W for ids); cells that were dropped are zero."""
    values = tokens.filled()
    ids = values.ndim == 2
    lengths = [grid.cells for grid in tokens.grids]
    starts = torch.tensor(np.concatenate([[0], np.cumsum(lengths)])[:-1].tolist(), device=tokens.device)
    place = torch.where(tokens.clip > 0, tokens.per_token(starts) + tokens.cells() + 1, 0)
    flat = values.new_zeros(sum(lengths) + 1, *values.shape[2:])
    flat = flat.index_put((place.flatten(),), values.flatten(0, 1))
    form = "(t h w) -> t h w" if ids else "(t h w) d -> d t h w"
    return tuple(
        rearrange(clip, form, t=grid.frames, h=grid.rows, w=grid.columns)
        for clip, grid in zip(flat[1:].split(lengths), tokens.grids, strict=True)
    )


def _dealt(order: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Each clip, in order, to the emptiest of so many rows."""
    rows: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for i in order:
        row = loads.index(min(loads))
        rows[row].append(i)
        loads[row] += lengths[i]
    return rows


def _area(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Tokens of all rows, padding included."""
    return len(rows) * max(sum(lengths[i] for i in row) for row in rows)
