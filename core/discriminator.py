"""The discriminator role: an objective's opponent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning


class Discriminator(Component, nn.Module, ABC):
    """Judges grids of latents or pixels; sized by the FieldFact that the objective lends.

    outputs: scores of each place, 2 for a softmax over (fake, real). categories: logits of a class that follow them,
    0 for none. Where there are two outputs or categories, they stand along the axis after B.
    """

    role: ClassVar[str] = "discriminator"
    outputs: int = 1
    categories: int = 0

    def view(self, grid: Tensor, draw: Draw) -> Tensor:
        """What it is shown of B C T H W clips: all, or some frames that it draws. `forward` is given this."""
        return grid

    @abstractmethod
    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """Scores of B C T H W grids: B x anything (patches, classes)."""

    if TYPE_CHECKING:
        __call__ = forward
