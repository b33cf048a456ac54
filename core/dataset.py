"""The dataset role: clips by split and index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from mutoscope.core.component import Component
from mutoscope.core.facts import ClipFact
from mutoscope.core.randomness import key
from mutoscope.core.values import Batch


class Dataset(Component, ABC):
    """Clips that can be asked for by number.

    fixed: the same number always gives the same clip, so that what frozen parts make of it may be cached.
    """

    role: ClassVar[str] = "data"
    fixed: bool = True

    @abstractmethod
    def length(self, split: str) -> int:
        """Clips in a split. Raises InputError on a split it does not have; DataError when nothing is usable."""

    @abstractmethod
    def batch(self, split: str, indices: Sequence[int], epoch: int = 0) -> Batch:
        """The clips of these numbers; `clips` of the batch are the numbers. On the CPU.

        Video is float32 in [-1, 1]. A dataset that augments does so as a function of (epoch, number).
        """

    @abstractmethod
    def facts(self) -> Iterable[ClipFact]:
        """One ClipFact."""

    def splits(self) -> tuple[str, ...]:
        """Names of its splits; `train` is always among them."""
        return ("train", "validation", "test")

    def sizes(self, split: str, indices: Sequence[int]) -> list[tuple[int, int, int]] | None:
        """Frames, rows, columns of clips without making them, where sizes mix and packing wants to know; else None."""
        return None

    def report(self) -> dict[str, Any]:
        """What a run should keep on record of its data, JSON-able, such as files that were skipped and why; nothing by
        default. A `note` in it is one line that is worth telling at once, or empty."""
        return {}

    def fingerprint(self) -> str:
        """Names the data's version: two fingerprints do not share a table."""
        return self.name


def order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The clip numbers of one epoch, shuffled; a function of (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(key=key(seed, "order", epoch))).permutation(length)


class Order:
    """The endless sequence of clip numbers of a training run, epoch after epoch, addressed by position."""

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length
        self._epochs: dict[int, np.ndarray] = {}

    def at(self, start: int, count: int) -> list[tuple[int, int]]:
        """(epoch, clip number) of positions start ... start + count - 1."""
        return [
            (p // self.length, int(self._epoch(p // self.length)[p % self.length])) for p in range(start, start + count)
        ]

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs = {e: o for e, o in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = order(self.seed, epoch, self.length)
        return self._epochs[epoch]
