"""The patchifier role: latents to tokens and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import nn

from mutoscope.core.component import Component
from mutoscope.core.facts import TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Grid, Latents, Tokens


class Patchifier(Component, nn.Module, ABC):
    """Cuts latents into tokens and puts them back; `unpatchify` is the exact inverse.

    It holds no learned projection: that is the denoiser's first layer.
    """

    role: ClassVar[str] = "patchifier"

    @abstractmethod
    def patchify(self, latents: Latents, draw: Draw | None = None) -> Tokens:
        """One token per cube, time-major within a clip. Raises ShapeError on a remainder.

        draw: in training only; a patchifier that drops tokens draws from it.
        """

    @abstractmethod
    def unpatchify(self, tokens: Tokens) -> Latents:
        """The latents that `patchify` cut; a tuple of clips when their grids differ."""

    @abstractmethod
    def token_grid(self, latent: Grid) -> Grid:
        """The smallest token grid that covers a latent grid."""

    @abstractmethod
    def latent_grid(self, tokens: Grid) -> Grid:
        """The latent grid that a token grid puts together."""

    @abstractmethod
    def facts(self) -> Iterable[TokenFact]:
        """One TokenFact."""

    def canvas(self, grids: Sequence[Grid], device: torch.device | str | None = None) -> Tokens:
        """Tokens without values for clips of these token grids; packed rows when they differ and the part packs."""
        if len(set(grids)) != 1:
            raise ValueError(f"{self.name} has one clip per row and cannot mix token grids")
        return Tokens.canvas(grids[0], len(grids), device)
