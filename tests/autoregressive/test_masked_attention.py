"""Patterns against definitions written out cell by cell, and every kernel against the dense mask."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch

from mutoscope.core.layers.masked import (
    Banded,
    ColumnPattern,
    Dense,
    Layout,
    MaskedAttention,
    Masks,
    Memory,
    NearbyPattern,
    Pattern,
    RowPattern,
    WindowPattern,
    attend,
    attend_by_blocks,
)
from mutoscope.core.values import Grid

GRID = Grid(2, 4, 3)
CPU = torch.device("cpu")
PATTERNS = (Dense(), Banded(5), RowPattern(), ColumnPattern(), WindowPattern(3), NearbyPattern((1, 1, 1)))
Cell = tuple[int, int, int]


def cell(n: int) -> Cell:
    return n // 12, n % 12 // 3, n % 3


def near(a: Cell, b: Cell, reach: tuple[int, int, int]) -> bool:
    return all(abs(x - y) <= r for x, y, r in zip(a, b, reach, strict=True))


OF_CELLS: dict[Pattern, Callable[[int, int], bool]] = {
    # Whether the row that reads cell q sees the row that reads cell k, at or before it.
    RowPattern(): lambda q, k: q - k <= 3,
    ColumnPattern(): lambda q, k: cell(q)[2] == cell(k)[2],
    WindowPattern(3): lambda q, k: near(cell(q), cell(k), (9, 1, 1)),
    NearbyPattern((1, 1, 1)): lambda q, k: q + 1 < 24 and near(cell(q + 1), cell(k), (1, 1, 1)),
}


@pytest.mark.parametrize("pattern", OF_CELLS, ids=lambda p: type(p).__name__)
def test_a_pattern_is_its_definition(pattern: Pattern) -> None:
    layout = Layout(2, GRID, causal=True)
    made = Masks(layout, CPU).dense(pattern)
    for q in range(layout.rows):
        for k in range(layout.rows):
            says = k <= q and (k < 2 or (q >= 2 and OF_CELLS[pattern](q - 2, k - 2)))
            if isinstance(pattern, NearbyPattern) and q == 1 and k == 1:
                says = True
            assert bool(made[q, k]) == says, (q, k)


def test_the_row_of_dalle_ends_above_itself() -> None:
    """On a picture four wide, figure 11a has an extent of five: itself, and back to the one above."""
    layout = Layout(6, Grid(1, 4, 4), causal=True)
    seen = Masks(layout, CPU).dense(RowPattern())[6 + 9]
    assert [k - 6 for k in range(6, layout.rows) if seen[k]] == [5, 6, 7, 8, 9]
    assert seen[:6].all(), "all of the text is seen"


def test_no_pattern_sees_later_rows_and_every_row_sees_one() -> None:
    for pattern in PATTERNS:
        for prefix in (1, 4):
            for causal in (True, False):
                mask = Masks(Layout(prefix, GRID, causal), CPU).dense(pattern)
                assert mask.any(1).all(), f"{pattern} leaves a row with nothing to see"
                assert not causal or not mask.triu(1).any()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: type(p).__name__)
def test_blocks_equal_the_dense_mask(pattern: Pattern, causal: bool) -> None:
    layout = Layout(3, GRID, causal)
    q, k, v = (torch.randn(2, 2, layout.rows, 16, generator=torch.manual_seed(i)) for i in range(3))
    masks = Masks(layout, CPU)
    dense = attend(q, k, v, pattern, masks)
    blocks = attend_by_blocks(q, k, v, masks.blocks(pattern), compiled=False)
    assert torch.allclose(dense, blocks, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the CPU kernel is compiled by g++")
def test_the_compiled_kernel_equals_the_dense_mask() -> None:
    layout = Layout(1, Grid(2, 8, 8), True)
    q, k, v = (torch.randn(2, 2, layout.rows, 32, generator=torch.manual_seed(i)) for i in range(3))
    masks = Masks(layout, CPU)
    with torch.no_grad():
        blocks = attend_by_blocks(q, k, v, masks.blocks(RowPattern()))
    assert torch.allclose(attend(q, k, v, RowPattern(), masks), blocks, atol=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: type(p).__name__)
def test_rows_one_by_one_equal_all_at_once(pattern: Pattern) -> None:
    layout = Layout(3, GRID, True)
    layer, x = MaskedAttention(16, 2, pattern), torch.randn(2, layout.rows, 16, generator=torch.manual_seed(0))
    masks, memory = Masks(layout, CPU), Memory(layout.rows)
    whole = layer(x, masks)
    # The prefix at once, then several rows, then row by row.
    cuts = [slice(0, 3), slice(3, 7), *(slice(i, i + 1) for i in range(7, layout.rows))]
    parts = torch.cat([layer(x[:, cut], masks, memory) for cut in cuts], dim=1)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_jacobians_of_gpt3s_layers() -> None:
    """One banded layer sees 0 <= i - j < w, a dense one all before, two banded ones 2 w - 1 rows."""
    width, reach, layout = 8, 4, Layout(1, Grid(1, 4, 5), True)
    masks, n = Masks(layout, CPU), layout.rows
    banded = [MaskedAttention(width, 2, Banded(reach)) for _ in range(2)]
    distance = torch.arange(n)[:, None] - torch.arange(n)[None]

    def support(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        x = torch.randn(1, n, width, generator=torch.manual_seed(1))
        return torch.autograd.functional.jacobian(function, x)[0, :, :, 0].abs().sum((1, 3)) > 0  # type: ignore[index]

    assert torch.equal(support(lambda x: banded[0](x, masks)), (distance >= 0) & (distance < reach))
    assert torch.equal(support(lambda x: MaskedAttention(width, 2, Dense())(x, masks)), distance >= 0)
    assert torch.equal(
        support(lambda x: banded[1](banded[0](x, masks), masks)), (distance >= 0) & (distance < 2 * reach - 1)
    )
