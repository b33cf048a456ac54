"""The writer role: a part that gives text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch


class Writer(Component, nn.Module, ABC):
    """Captions videos or expands prompts."""

    role: ClassVar[str] = "writer"

    @abstractmethod
    def write(self, given: Sequence[str] | Tensor, draw: Draw) -> list[str]:
        """One text per prompt, or per video of B C T H W in [-1, 1]."""


class LearnedWriter(Writer):
    """A writer that learns from clips and what people wrote of them."""

    entries: ClassVar[tuple[str, ...]] = ("forward", "write", "losses")

    @abstractmethod
    def losses(self, batch: Batch, draw: Draw) -> Mapping[str, Tensor]:
        """Scalars to descend, by name; of likelihoods, nats per piece of text."""
