"""The `dalle` denoiser."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor, nn

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import ConditioningFact, Discrete, Regular, TokenFact
from mutoscope.core.layers.masked import (
    ColumnPattern,
    Layout,
    MaskedAttention,
    Masks,
    Pattern,
    Rollout,
    RowPattern,
    WindowPattern,
)
from mutoscope.core.process import TokenProcess
from mutoscope.core.settings import Count, Depth, Heads, Width
from mutoscope.core.values import Conditioning, Grid, Logits, Tokens
from mutoscope.plugins.autoregressive.blocks import Block, feed_forward, initialise
from mutoscope.plugins.autoregressive.stream import GridPositions, Told, check_grid, reading, rollout_bytes


@final
class Dalle(TokenDenoiser):
    """One stream of a prompt's ids and visual ids. Ramesh et al. 2021, sec. 2.2 and app. B, arXiv:2102.12092.

    The text is causal; every visual token sees all of it. Visual layers see by rows (a row's length of tokens before),
    every fourth from the second by columns, the last a window. Text positions and row and column positions are learned,
    and every place of the text has a padding vector of its own. The text's ids are predicted as well, for the objective
    to weigh. Without prompt ids the stream is visual alone. In a video, frames stand above each other: rows reach into
    the frame before, columns and windows into every earlier one, and time has positions too.

    window: cells on a side.
    """

    name = "dalle"
    paper = "Ramesh et al. 2021, arXiv:2102.12092"
    uses_known = True
    tiny = {"width": 32, "depth": 4, "heads": 2, "window": 3}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete, Regular],
        given: ConditioningFact,
        process: TokenProcess,
        *,
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 6,
        window: Count = 11,
    ) -> None:
        super().__init__()
        codes = tokens.codebook or 1  # what assembly refuses is built all the same
        self.causal, self.codes, self.depth = process.causal, codes, depth
        self.width = width
        self.length = given.length if given.vocabulary else 0
        self.table = nn.Embedding(codes + (process.hole is not None), width)
        self.told = Told(given, width, pooling=not self.length)
        self.text = nn.Embedding(given.vocabulary, width) if self.length else None
        self.padding = nn.Parameter(0.02 * torch.randn(self.length, width)) if self.length else None
        self.text_places = nn.Parameter(0.02 * torch.randn(self.length, width)) if self.length else None
        self.places = GridPositions(tokens.grid, width)
        self.blocks = nn.ModuleList(
            Block(
                lambda: nn.LayerNorm(width),
                MaskedAttention(width, heads, pattern_of(i, depth, window), bias=False, out_bias=True),
                feed_forward(width, 4 * width, nn.GELU()),
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, codes)
        self.text_out = nn.Linear(width, given.vocabulary) if self.length and self.causal else None
        initialise(self, depth)

    def _layout(self, grid: tuple[int, int, int]) -> Layout:
        return Layout(1 + self.length, Grid(*grid), self.causal)

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Rollout | None = None) -> Logits:
        layout = self._layout(tokens.grids[0])
        check_grid(self.name, layout.grid, self.places.most)  # type: ignore[arg-type]
        since = cache.rows if cache is not None else 0
        ids, cells = reading(tokens, layout, since)
        x = self.table(ids) + self.places(cells, layout)
        if not since:
            x = torch.cat([self.told.start(tokens, conditioning), *self._prompt(conditioning), x], dim=1)
        x = x + self.told.frames(conditioning, layout, since, x.shape[1])
        masks = cache.masks if cache is not None else Masks(layout, tokens.device)
        for i, block in enumerate(self.blocks):
            x = block(x, masks, cache.memories[i] if cache is not None else None)
        if cache is not None:
            return Logits(self.out(self.norm(x[:, -1:])))
        x = self.norm(x)
        prompt = self.text_out(x[:, : self.length]) if self.text_out is not None else None
        return Logits(self.out(x[:, layout.prefix - layout.causal :]), prompt)

    def _prompt(self, conditioning: Conditioning) -> list[Tensor]:
        """The rows of the prompt, B L D, where there is one."""
        if self.text is None or self.padding is None or conditioning.prompt_ids is None:
            return []
        x = self.text(conditioning.prompt_ids)
        if conditioning.mask is not None:
            x = torch.where(conditioning.mask[..., None], x, self.padding)
        return [x + self.text_places]

    def new_cache(self, canvas: Tokens) -> Rollout | None:
        return Rollout(self._layout(canvas.grids[0]), self.depth, canvas.device) if self.causal else None

    def cache_bytes(self, canvas: Tokens) -> int:
        layout = self._layout(canvas.grids[0])
        return rollout_bytes(layout, self.depth, 2 * self.width, len(canvas)) if self.causal else 0


def pattern_of(i: int, depth: int, window: int) -> Pattern:
    """What layer i sees: row, column, row, row, and so on; a window in the last (app. B.1; layers count from 1)."""
    if i == depth - 1:
        return WindowPattern(window)
    return ColumnPattern() if (i + 1 - 2) % 4 == 0 else RowPattern()
