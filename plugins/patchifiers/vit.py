"""The patchifier `vit`: square patches of single frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, final

import torch
from einops import rearrange
from torch import Tensor

from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import Continuous, LatentFact, OneSize, TokenFact
from mutoscope.core.patchifier import Patchifier
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count
from mutoscope.core.values import Grid, Latents, Tokens


@final
class Vit(Patchifier):
    """Cuts every frame into square patches, one token each; frames follow each other.

    Dosovitskiy et al. 2021, sec. 3.1. A token's values are in the order channel, row, column, as those of a convolution
    kernel are, so that a linear layer over them is the paper's convolution whose kernel is as large as its stride.

    patch: rows and columns of latent cells per token.
    """

    name = "vit"
    paper = "Dosovitskiy et al. 2021, arXiv:2010.11929"
    tiny = {"patch": 2}  # noqa: RUF012

    def __init__(self, latents: Annotated[LatentFact, Continuous, OneSize], *, patch: Count = 2) -> None:
        super().__init__()
        self.patch, self.latents = patch, latents

    def facts(self) -> Iterable[TokenFact]:
        p, channels = self.patch, self.latents.channels
        yield TokenFact(channels * p * p, self.token_grid(self.latents.grid), channels, (1, p, p))

    def patchify(self, latents: Latents, draw: Draw | None = None) -> Tokens:
        values = latents.values if isinstance(latents.values, Tensor) else torch.stack(latents.values)
        if any(n % self.patch for n in values.shape[3:]):
            raise ShapeError(f"latents of {tuple(values.shape[3:])} cells do not divide into patches of {self.patch}")
        cut = rearrange(values, "b c t (h p) (w q) -> b (t h w) (c p q)", p=self.patch, q=self.patch)
        return Tokens.canvas(self.token_grid(Grid(*values.shape[2:])), len(values), values.device).with_values(cut)

    def unpatchify(self, tokens: Tokens) -> Latents:
        joined = rearrange(tokens.as_grid(), "b (c p q) t h w -> b c t (h p) (w q)", p=self.patch, q=self.patch)
        return Latents(joined)

    def token_grid(self, latent: Grid) -> Grid:
        return Grid(latent.frames, -(-latent.rows // self.patch), -(-latent.columns // self.patch))

    def latent_grid(self, tokens: Grid) -> Grid:
        return Grid(tokens.frames, tokens.rows * self.patch, tokens.columns * self.patch)
