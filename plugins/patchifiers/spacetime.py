"""The patchifier `spacetime`: cubes of latent cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, final

import torch
from einops import rearrange

from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import LatentFact, OneSize, TokenFact
from mutoscope.core.patchifier import Patchifier
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Cube
from mutoscope.core.values import Grid, Latents, Tokens


@final
class Spacetime(Patchifier):
    """Cuts latents into cubes of frames x rows x columns, one token each, one clip per row.

    The space-time patches of the Sora report (Brooks, Peebles et al. 2024); a cube of one frame is DiT's patch. A
    token's values are in the order channel, frame, row, column. Ids of a codebook are tokens by themselves, so that
    their cube must be [1, 1, 1].

    size: frames, rows, columns of latent cells per token.
    """

    name = "spacetime"
    tiny = {"size": (1, 2, 2)}  # noqa: RUF012

    def __init__(self, latents: Annotated[LatentFact, OneSize], *, size: Cube = (1, 2, 2)) -> None:
        super().__init__()
        if latents.codebook is not None and tuple(size) != (1, 1, 1):
            raise ValueError(f"size: ids of a codebook cannot be joined, so the size is [1, 1, 1]; got {list(size)}")
        self.size = tuple(size)
        self.latents = latents

    def facts(self) -> Iterable[TokenFact]:
        t, h, w = self.size
        ids = self.latents.codebook is not None
        width = 1 if ids else self.latents.channels * t * h * w
        yield TokenFact(
            width, self.token_grid(self.latents.grid), self.latents.channels, self.size, self.latents.codebook
        )

    def patchify(self, latents: Latents, draw: Draw | None = None) -> Tokens:
        values = latents.values
        if isinstance(values, tuple):
            if len({clip.shape for clip in values}) > 1:
                raise ShapeError("spacetime has one clip per row and cannot mix sizes")
            values = torch.stack(values)
        if latents.ids:
            canvas = Tokens.canvas(Grid(*values.shape[1:]), len(values), values.device)
            return canvas.with_values(rearrange(values, "b t h w -> b (t h w)"))
        t, h, w = self.size
        if any(n % p for n, p in zip(values.shape[2:], self.size, strict=True)):
            raise ShapeError(f"latents of {tuple(values.shape[2:])} cells do not divide into cubes of {self.size}")
        cut = rearrange(values, "b c (t i) (h j) (w k) -> b (t h w) (c i j k)", i=t, j=h, k=w)
        grid = self.token_grid(Grid(*values.shape[2:]))
        return Tokens.canvas(grid, len(values), values.device).with_values(cut)

    def unpatchify(self, tokens: Tokens) -> Latents:
        values, (t, h, w) = tokens.filled(), tokens.grids[0]
        if values.ndim == 2:
            return Latents(rearrange(values, "b (t h w) -> b t h w", t=t, h=h, w=w), ids=True)
        i, j, k = self.size
        joined = rearrange(values, "b (t h w) (c i j k) -> b c (t i) (h j) (w k)", t=t, h=h, w=w, i=i, j=j, k=k)
        return Latents(joined)

    def token_grid(self, latent: Grid) -> Grid:
        return Grid(*(-(-n // p) for n, p in zip(latent, self.size, strict=True)))

    def latent_grid(self, tokens: Grid) -> Grid:
        return Grid(*(n * p for n, p in zip(tokens, self.size, strict=True)))
