"""The metric `precision_recall`: how many clips look real, and how much of what is real is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np

from mutoscope.core.component import Nested
from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.settings import Count
from mutoscope.core.tower import Tower
from mutoscope.plugins.metrics.extraction import Sets

AT_ONCE = 512
"""Rows of a distance matrix that are made together."""


@final
class PrecisionRecall(Metric):
    """Share of generated clips among the real ones, and of real clips among the generated.

    Kynkäänniemi et al. 2019, sec. 3, eq. 1 and 2: a clip is among a set where it lies no farther from one of its members
    than that member's k-th nearest neighbour in the set, by features. Both depend on the number of clips, which the
    fingerprint has. A part of the real clips as large as the generated set is the base of both.

    extractor: the tower whose features are compared. neighbours: k.
    """

    name = "precision_recall"
    paper = "Kynkäänniemi et al. 2019, arXiv:1904.06991"

    def __init__(self, *, extractor: Tower = Nested("mutonet"), neighbours: Count = 3) -> None:  # type: ignore[assignment]
        self.extractor, self.neighbours = extractor, neighbours

    def score(self, material: Material) -> Iterable[Score]:
        """Raises InputError on sets with fewer clips than a neighbourhood has."""
        sets = Sets.of(material, self.extractor)
        base = sets.base[: len(sets.made)]
        if min(len(sets.made), len(base)) <= self.neighbours:
            raise InputError(
                field="metrics", problem=f"precision_recall needs more than {self.neighbours} clips on each side",
                got=[len(sets.made), len(base)],
            )  # fmt: skip
        return [
            Score(f"{self.name}.precision", among(sets.made, base, self.neighbours)),
            Score(f"{self.name}.recall", among(base, sets.made, self.neighbours)),
        ]

    def protocol(self) -> dict[str, object]:
        return {"metric": self.name, "extractor": self.extractor.fingerprint(), "neighbours": self.neighbours}


def among(these: np.ndarray, members: np.ndarray, neighbours: int) -> np.ndarray:
    """Which of some points, n d, lie in the neighbourhood of a member, m d: n of 0 or 1."""
    reach = np.concatenate(
        [
            # A member is its own nearest neighbour, and does not count.
            np.partition(distances(part, members), neighbours, axis=1)[:, neighbours]
            for part in np.array_split(members, -(-len(members) // AT_ONCE))
        ]
    )
    inside = [(distances(part, members) <= reach).any(1) for part in np.array_split(these, -(-len(these) // AT_ONCE))]
    return np.concatenate(inside).astype(np.float64)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared, n m. Differences one by one: the shortcut by products loses what near points differ in."""
    return np.stack([np.square(y - row).sum(1) for row in x])
