"""The discriminator role: an objective's opponent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.values import Conditioning


class Discriminator(Component, nn.Module, ABC):
    """Judges grids of latents or pixels; sized by the FieldFact that the objective lends."""

    role: ClassVar[str] = "discriminator"

    @abstractmethod
    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """Scores of B C T H W grids: B x anything (patches, classes)."""

    if TYPE_CHECKING:
        __call__ = forward
