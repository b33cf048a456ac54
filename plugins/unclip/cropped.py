"""The `cropped` objective: a network of convolutions learns from crops."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, final

import torch
from annotated_types import Gt, Le
from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Regular, TokenFact
from mutoscope.core.objective import Objective, WrappingObjective
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Example, Grid, Known, Losses, Tokens


@final
class Cropped(WrappingObjective):
    """Another objective on a crop of every clip, its own in each step. Ramesh et al. 2022, sec. 2.1: the upsamplers
    learn from crops of a quarter of the picture, and serve whole ones.

    Conditioning cells and known tokens are cropped alike; what is said of the whole clip stays.

    side: of a crop, as a share of the rows and of the columns; all frames stay. objective: the one that is descended.
    """

    name = "cropped"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    accepts = LevelDenoiser
    tiny: ClassVar[dict[str, Any]] = {"objective": Nested("ddpm")}

    def __init__(
        self,
        tokens: Annotated[TokenFact, Regular],
        *,
        side: Annotated[float, Gt(0.0), Le(1.0)] = 0.5,
        objective: Objective = Nested("improved_ddpm"),  # type: ignore[assignment]
    ) -> None:
        super().__init__(objective)
        self.side = side

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, told = example.tokens, example.conditioning
        assert tokens is not None
        t, rows, columns = tokens.grids[0]
        small = Grid(t, max(1, round(rows * self.side)), max(1, round(columns * self.side)))
        start = (
            draw.uniform("crop", 2)
            * torch.tensor([rows - small.rows + 1, columns - small.columns + 1], device=tokens.device)
        ).long()
        canvas = Tokens.canvas(small, len(tokens), tokens.device)

        def seen(values: Tensor) -> Tokens:
            return canvas.from_grid(window(tokens.with_values(values).as_grid(), start, small))

        cut = seen(tokens.filled())
        if told.known is not None:
            where = seen(told.known.where[..., None]).filled()[..., 0]
            told = replace(told, known=Known(seen(told.known.values).filled(), where))
        cells = self._cells(told, tokens.grids[0], start, small)
        told = replace(cells, null=None if told.null is None else self._cells(told.null, tokens.grids[0], start, small))
        return self.objective.loss(learner, Example(cut, told, example.batch), draw, turn)

    def _cells(self, told: Conditioning, grid: Grid, start: Tensor, small: Grid) -> Conditioning:
        if told.cells is None:
            return told
        tall, wide = told.cells.shape[3] // grid.rows, told.cells.shape[4] // grid.columns
        scaled = start * torch.tensor([tall, wide], device=start.device)
        size = Grid(told.cells.shape[2], small.rows * tall, small.columns * wide)
        return replace(told, cells=window(told.cells, scaled, size))


def window(grid: Tensor, start: Tensor, size: Grid) -> Tensor:
    """B D T H W cut to the rows and columns of `size`, each clip from its own start, B 2."""
    y = start[:, :1] + torch.arange(size.rows, device=grid.device)
    x = start[:, 1:] + torch.arange(size.columns, device=grid.device)
    tall = grid.gather(3, y[:, None, None, :, None].expand(-1, *grid.shape[1:3], -1, grid.shape[4]))
    return tall.gather(4, x[:, None, None, None, :].expand(-1, *tall.shape[1:4], -1))
