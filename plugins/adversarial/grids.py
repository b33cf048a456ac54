"""Between tokens and the grids that convolutions work on, in the order of `spacetime` patches."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.facts import FieldFact, TokenFact
from mutoscope.core.values import Grid, Tokens


def field_of(tokens: TokenFact) -> FieldFact:
    """The grids that tokens of a training clip are cut from."""
    (t, h, w), (i, j, k) = tokens.grid, tokens.patch
    return FieldFact(tokens.channels, t * i, (h * j, w * k))


def cells_of(canvas: Tokens, patch: tuple[int, int, int]) -> Grid:
    """Latent cells of a regular canvas. Raises ValueError on packed tokens."""
    if not canvas.regular:
        raise ValueError("a generator makes clips of one size")
    return Grid(*(n * p for n, p in zip(canvas.grids[0], patch, strict=True)))


def grid_of(values: Tensor, canvas: Tokens, patch: tuple[int, int, int]) -> Tensor:
    """B N D tokens to B C T H W cells."""
    (t, h, w), (i, j, k) = canvas.grids[0], patch
    return rearrange(values, "b (t h w) (c i j k) -> b c (t i) (h j) (w k)", t=t, h=h, w=w, i=i, j=j, k=k)


def tokens_of(grid: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """B C T H W cells to B N D tokens."""
    i, j, k = patch
    return rearrange(grid, "b c (t i) (h j) (w k) -> b (t h w) (c i j k)", i=i, j=j, k=k)


def check_cells(name: str, made: Grid, asked: Grid) -> None:
    """Refuses a request for another size than a generator of one size was built for. Raises InputError."""
    if made != asked:
        raise InputError(
            field="size",
            problem=f"{name} makes clips of one size, {made.frames} frames of {made.rows} x {made.columns} latent cells",
            got=tuple(asked),
        )
