"""The conditioner role: what is said of a clip, as features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from torch import nn

from mutoscope.core.component import Component
from mutoscope.core.facts import ConditioningFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning


class Conditioner(Component, nn.Module, ABC):
    """Reads some fields of a batch and gives conditioning. A recipe may list several; they merge.

    A batch field that is None is drawn; a request fills it. `dropout` is the rate at which the training verb replaces
    a clip's conditioning by the null one.
    """

    role: ClassVar[str] = "conditioner"
    entries: ClassVar[tuple[str, ...]] = ("forward", "embed")
    dropout: float = 0.0
    sees: int = 0
    """First frames of the video itself that it looks at, in `Batch.opening`."""
    beside: tuple[str, ...] = ()
    """Places, of `core.showing.PLACES`, at which it tells of known tokens itself, in what it gives of the cells."""
    reads_written: ClassVar[bool] = False
    """Whether it reads what the recipe's writer says of the training clips, in `Batch.written`."""

    @abstractmethod
    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Conditioning of each clip, with `null` set where guidance is possible."""

    @abstractmethod
    def facts(self) -> Iterable[ConditioningFact]:
        """One ConditioningFact."""
