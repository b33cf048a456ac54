"""The sampler role: from an empty canvas to tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from mutoscope.core.component import Component
from mutoscope.core.denoiser import Denoiser
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Tokens


class Sampler(Component, nn.Module, ABC):
    """Draws tokens with a denoiser. Its process comes from the objective, by the constructor.

    accepts: the capability it needs of the denoiser, checked at assembly.
    """

    role: ClassVar[str] = "sampler"
    accepts: ClassVar[type] = Denoiser

    @abstractmethod
    def sample(self, denoiser: Any, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        """The canvas with values. Runs without gradients where the caller says so; draws only from `draw`."""

    @abstractmethod
    def calls(self, canvas: Tokens) -> int:
        """Network calls per clip, both halves of a guided call counted."""
