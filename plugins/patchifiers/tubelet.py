"""The patchifier `tubelet`: cubes of space and time, whose projection can start from an image model's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, final

import torch
from einops import rearrange
from torch import Tensor

from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import Continuous, LatentFact, OneSize, TokenFact
from mutoscope.core.layers.tubelets import carried
from mutoscope.core.patchifier import Patchifier
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Cube
from mutoscope.core.values import Grid, Latents, Tokens


@final
class Tubelet(Patchifier):
    """Cuts latents into tubelets of frames x rows x columns. Arnab et al. 2021, sec. 3.2, arXiv:2103.15691.

    The projection is the first layer of the network; `carried` makes one from an image network's.

    size: frames, rows, columns of latent cells per token.
    """

    name = "tubelet"
    paper = "Arnab et al. 2021, arXiv:2103.15691"
    tiny = {"size": (1, 2, 2)}  # noqa: RUF012

    def __init__(self, latents: Annotated[LatentFact, Continuous, OneSize], *, size: Cube = (2, 2, 2)) -> None:
        super().__init__()
        self.size, self.latents = tuple(size), latents

    def facts(self) -> Iterable[TokenFact]:
        t, h, w = self.size
        channels = self.latents.channels
        yield TokenFact(channels * t * h * w, self.token_grid(self.latents.grid), channels, self.size)

    def patchify(self, latents: Latents, draw: Draw | None = None) -> Tokens:
        values = latents.values if isinstance(latents.values, Tensor) else torch.stack(latents.values)
        if any(n % p for n, p in zip(values.shape[2:], self.size, strict=True)):
            raise ShapeError(f"latents of {tuple(values.shape[2:])} cells do not divide into tubelets of {self.size}")
        t, h, w = self.size
        cut = rearrange(values, "b c (t i) (h j) (w k) -> b (t h w) (c i j k)", i=t, j=h, k=w)
        return Tokens.canvas(self.token_grid(Grid(*values.shape[2:])), len(values), values.device).with_values(cut)

    def unpatchify(self, tokens: Tokens) -> Latents:
        t, h, w = self.size
        joined = rearrange(tokens.as_grid(), "b (c i j k) t h w -> b c (t i) (h j) (w k)", i=t, j=h, k=w)
        return Latents(joined)

    def token_grid(self, latent: Grid) -> Grid:
        return Grid(*(-(-n // p) for n, p in zip(latent, self.size, strict=True)))

    def latent_grid(self, tokens: Grid) -> Grid:
        return Grid(*(n * p for n, p in zip(tokens, self.size, strict=True)))

    def carried(self, weight: Tensor, way: str = "central") -> Tensor:
        """A projection of tubelets, D (c t p q), from an image network's patches of the same rows and columns.

        weight: D (c p q), or a convolution kernel D c p q. way: `central` puts it at the middle frame, so that a still
        video has the image's tokens and only that frame counts; `inflated` shares it out over the frames.
        """
        return carried(weight.flatten(1), self.size, way)
