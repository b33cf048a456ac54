"""Studies that never ran: how often identical arms are called different, and how large a difference is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mutoscope.benchmarks.statistics import Difference, difference, with_holm

Study = list[list[np.ndarray]]
"""Scores clip by clip of every arm's seeds."""


@dataclass(frozen=True)
class Recorded:
    """Scores of one recipe's real runs, seeds x clips: what seeds and clips differ by."""

    scores: np.ndarray

    def study(self, rng: np.random.Generator, arms: int, seeds: int, clips: int | None = None) -> Study:
        """A study of arms that do not differ: each arm's seeds are drawn from the recorded runs, all on the same clips,
        drawn as well."""
        runs, held = self.scores.shape
        chosen = rng.integers(0, held, clips or held)
        return [[self.scores[i][chosen] for i in rng.integers(0, runs, seeds)] for _ in range(arms)]

    def shifted(self, rng: np.random.Generator, by: float, seeds: int, clips: int | None = None) -> Study:
        """A study of two arms, the second better by a stated size."""
        a, b = self.study(rng, 2, seeds, clips)
        return [a, [run + by for run in b]]


def verdicts(study: Study) -> list[Difference]:
    """What the report would say of every pair."""
    pairs = [(i, j) for i in range(len(study)) for j in range(i + 1, len(study))]
    found = [difference(study[i], study[j]) for i, j in pairs]
    return with_holm(found, [(f"arm {i}", f"arm {j}") for i, j in pairs])


def called_different(told: Sequence[Difference]) -> bool:
    """Whether any pair was given a winner."""
    return any(one.verdict.endswith("is better") for one in told)


def rate(make: Callable[[np.random.Generator], Study], studies: int, seed: int = 0) -> float:
    """The share of simulated studies in which some pair is called different."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return sum(called_different(verdicts(make(rng))) for _ in range(studies)) / studies
