"""The `on_crops` objective: another objective, learned from parts of the frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, final

import torch
from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Need, Regular, TokenFact
from mutoscope.core.objective import Objective, WrappingObjective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Size
from mutoscope.core.values import Conditioning, Example, Known, Losses, Tokens

OneCell = Need("tokens of one latent cell", lambda fact: fact.patch == (1, 1, 1))


@final
class OnCrops(WrappingObjective):
    """Every clip is seen through a window, the same in all of its frames, in what is known of them, and in what
    lies beside its cells.

    How Imagen Video trains its last stage, which is convolutional throughout (Ho et al. 2022, sec. 2.4,
    arXiv:2210.02303), Video LDM its upsampler (Blattmann et al. 2023, sec. 3.4, arXiv:2304.08818), and unCLIP its own,
    from quarters of the picture (Ramesh et al. 2022, sec. 2.1, arXiv:2204.06125). The denoiser must not know where in
    the picture it is.

    objective: what is descended. size: rows and columns of the window, in latent cells; no larger than the clip.
    """

    name = "on_crops"
    paper = "Ho et al. 2022, arXiv:2210.02303"
    accepts = LevelDenoiser

    def __init__(
        self,
        tokens: Annotated[TokenFact, Regular, OneCell],
        *,
        objective: Objective = Nested("continuous"),  # type: ignore[assignment]
        size: Size = (8, 8),
    ) -> None:
        super().__init__(objective)
        self.size = min(size[0], tokens.grid.rows), min(size[1], tokens.grid.columns)

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        return self.objective.loss(learner, self.cropped(example, draw), draw, turn)

    def cropped(self, example: Example, draw: Draw) -> Example:
        """The example through one window for each clip."""
        tokens = example.tokens
        assert tokens is not None
        _, rows, columns = tokens.grids[0]
        place = draw.uniform("crop", 2)
        y = (place[:, 0] * (rows - self.size[0] + 1)).long()
        x = (place[:, 1] * (columns - self.size[1] + 1)).long()
        grid = tokens.grids[0]._replace(rows=self.size[0], columns=self.size[1])
        canvas = Tokens.canvas(grid, len(tokens), tokens.device)
        seen = canvas.from_grid(self._windows(tokens.as_grid(), y, x))
        told = self._of_cells(example.conditioning, y, x, (rows, columns))
        if told.known is not None:
            values, where = (
                canvas.from_grid(self._windows(tokens.with_values(v).as_grid(), y, x)).filled()
                for v in (told.known.values, told.known.where[..., None])
            )
            told = replace(told, known=Known(values, where[..., 0]))
        return Example(seen, told, example.batch)

    def _of_cells(self, told: Conditioning, y: Tensor, x: Tensor, of: tuple[int, int]) -> Conditioning:
        """Conditioning cells may be finer than the clip's, of so many rows and columns."""
        if told.cells is not None:
            fine = told.cells.shape[3] // of[0], told.cells.shape[4] // of[1]
            told = replace(told, cells=self._windows(told.cells, y, x, fine))
        return told if told.null is None else replace(told, null=self._of_cells(told.null, y, x, of))

    def _windows(self, grid: Tensor, y: Tensor, x: Tensor, fine: tuple[int, int] = (1, 1)) -> Tensor:
        """B C T H W from row y and column x on, B each. fine: its rows and columns to one of the clip's."""
        rows = y[:, None] * fine[0] + torch.arange(self.size[0] * fine[0], device=y.device)
        columns = x[:, None] * fine[1] + torch.arange(self.size[1] * fine[1], device=x.device)
        b, c, t, _, width = grid.shape
        taken = grid.gather(3, rows.view(b, 1, 1, -1, 1).expand(b, c, t, -1, width))
        return taken.gather(4, columns.view(b, 1, 1, 1, -1).expand(b, c, t, taken.shape[3], -1))
