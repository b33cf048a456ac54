"""The patchifier `navit`: clips of any size, aspect and duration, packed into rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import torch
from einops import rearrange
from torch import Tensor

from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import LatentFact, TokenFact
from mutoscope.core.packing import pack, unpack
from mutoscope.core.patchifier import Patchifier
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Cube, Share
from mutoscope.core.values import Grid, Latents, Tokens
from mutoscope.plugins.patchifiers.dropping import Dropping, Way

ROW = 2
"""Tokens of a row, in clips of the largest size: longer rows waste less and attend to more in vain."""


@final
class Navit(Patchifier):
    """Packs clips of mixed sizes into rows; in training it can drop tokens.

    Dehghani et al. 2023, sec. 2, arXiv:2307.06304, with time as a third axis. A token keeps the place that it has in
    its own clip, and tokens of different clips never meet: attention, cross-attention too, stays within a clip. Clips
    of one size that lose no token are not packed: one clip per row, as `spacetime` cuts them. Cells that were dropped
    come back as zeros.

    size: frames, rows, columns of latent cells per token. length: most tokens of a row; by default twice those of the
    largest training clip. drop: how a clip's share of dropped tokens is found: `constant` (drop_rate), `beta`
    (drop_rate on average, at most drop_most), `size` (drop_least for the smallest clip to drop_most for the largest),
    or `schedule` (from drop_least to drop_most over training). drop_middle, drop_span: the step at which the schedule
    is half way, and its width in steps; a negative width falls.
    """

    name = "navit"
    paper = "Dehghani et al. 2023, arXiv:2307.06304"
    tiny = {"size": (1, 2, 2)}  # noqa: RUF012

    def __init__(
        self,
        latents: LatentFact,
        *,
        size: Cube = (1, 2, 2),
        length: Count | None = None,
        drop: Way = "none",
        drop_rate: Share = 0.5,
        drop_least: Share = 0.2,
        drop_most: Share = 0.8,
        drop_middle: float = 1000.0,
        drop_span: float = -200.0,
    ) -> None:
        super().__init__()
        if latents.codebook is not None and tuple(size) != (1, 1, 1):
            raise ValueError(f"size: ids of a codebook cannot be joined, so the size is [1, 1, 1]; got {list(size)}")
        if latents.codebook is not None and drop != "none":
            raise ValueError("drop: ids of a codebook are not dropped: every one of them is to be predicted")
        self.dropping = Dropping(drop, drop_rate, drop_least, drop_most, drop_middle, drop_span)
        if problem := self.dropping.problem():
            raise ValueError(problem)
        self.size, self.latents = tuple(size), latents
        self.largest = self.token_grid(latents.grid).cells
        self.length = length or ROW * self.largest

    def facts(self) -> Iterable[TokenFact]:
        t, h, w = self.size
        ids = self.latents.codebook is not None
        width = 1 if ids else self.latents.channels * t * h * w
        packed = self.latents.mixed or self.dropping.way != "none"
        grid = self.token_grid(self.latents.grid)
        yield TokenFact(width, grid, self.latents.channels, self.size, self.latents.codebook, packed)

    def patchify(self, latents: Latents, draw: Draw | None = None) -> Tokens:
        """draw: in training, where tokens are dropped; without it all are kept."""
        grids = tuple(self._grid(grid) for grid in latents.grids())
        drops = draw is not None and self.dropping.way != "none"
        if len(set(grids)) == 1 and not drops:
            values = latents.values
            whole = torch.stack(values) if isinstance(values, tuple) else values
            return Tokens.canvas(grids[0], len(grids), whole.device).with_values(self._cut(whole))
        cut = [self._cut(clip) for clip in latents.clips()]
        kept = None
        if drops:
            assert draw is not None
            kept = self.dropping.kept(grids, (1, self.largest), draw)
            cut = [x[torch.from_numpy(cells).to(x.device)] for x, cells in zip(cut, kept, strict=True)]
        return pack(grids, self.length, kept, cut[0].device).fill(cut)

    def unpatchify(self, tokens: Tokens) -> Latents:
        ids = tokens.filled().ndim == 2
        if tokens.regular:
            grid = tokens.as_grid()
            return Latents(grid if ids else self._joined(grid), ids)
        clips = unpack(tokens)
        return Latents(clips if ids else tuple(self._joined(clip[None])[0] for clip in clips), ids)

    def canvas(self, grids: Sequence[Grid], device: torch.device | str | None = None) -> Tokens:
        """Packed rows where the grids differ, else one clip per row."""
        if len(set(grids)) == 1:
            return Tokens.canvas(grids[0], len(grids), device)
        return pack(grids, self.length, device=device).canvas

    def token_grid(self, latent: Grid) -> Grid:
        return Grid(*(-(-n // p) for n, p in zip(latent, self.size, strict=True)))

    def latent_grid(self, tokens: Grid) -> Grid:
        return Grid(*(n * p for n, p in zip(tokens, self.size, strict=True)))

    def _grid(self, latent: Grid) -> Grid:
        """The token grid of latents that divide. Raises ShapeError."""
        if any(n % p for n, p in zip(latent, self.size, strict=True)):
            raise ShapeError(f"latents of {tuple(latent)} cells do not divide into cubes of {self.size}")
        return self.token_grid(latent)

    def _cut(self, clip: Tensor) -> Tensor:
        """... C T H W to ... N D, or ... T H W ids to ... N."""
        if self.latents.codebook is not None:
            return clip.flatten(-3)
        t, h, w = self.size
        return rearrange(clip, "... c (t i) (h j) (w k) -> ... (t h w) (c i j k)", i=t, j=h, k=w)

    def _joined(self, grid: Tensor) -> Tensor:
        """B D T H W of tokens to B C T H W of latents."""
        t, h, w = self.size
        return rearrange(grid, "b (c i j k) t h w -> b c (t i) (h j) (w k)", i=t, j=h, k=w)
