"""The patchifier `my_part`: whole rows of latent cells as tokens. A start to change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, final

from einops import rearrange
from torch import Tensor

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import Continuous, LatentFact, OneSize, TokenFact
from mutoscope.core.patchifier import Patchifier
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count
from mutoscope.core.values import Grid, Latents, Tokens


@final
class MyPart(Patchifier):
    """Strips of a row: one token for so many neighbouring cells.

    length: cells of a strip.
    """

    name = "my_part"

    def __init__(self, latents: Annotated[LatentFact, Continuous, OneSize], *, length: Count = 2) -> None:
        super().__init__()
        self.latents, self.length = latents, length

    def patchify(self, latents: Latents, draw: Draw | None = None) -> Tokens:
        values = latents.values
        if not isinstance(values, Tensor) or values.shape[-1] % self.length:
            raise ShapeError(f"my_part cuts clips of one size whose columns are multiples of {self.length}")
        grid = self.token_grid(latents.grids()[0])
        cut = rearrange(values, "b c t h (w k) -> b (t h w) (c k)", k=self.length)
        return Tokens.canvas(grid, len(values), values.device).with_values(cut)

    def unpatchify(self, tokens: Tokens) -> Latents:
        t, h, w = tokens.grids[0]
        return Latents(rearrange(tokens.filled(), "b (t h w) (c k) -> b c t h (w k)", t=t, h=h, w=w, k=self.length))

    def token_grid(self, latent: Grid) -> Grid:
        return Grid(latent.frames, latent.rows, -(-latent.columns // self.length))

    def latent_grid(self, tokens: Grid) -> Grid:
        return Grid(tokens.frames, tokens.rows, tokens.columns * self.length)

    def facts(self) -> Iterable[TokenFact]:
        width = self.latents.channels * self.length
        yield TokenFact(width, self.token_grid(self.latents.grid), self.latents.channels, (1, 1, self.length))


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
