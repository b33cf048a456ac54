"""Ratios of two ways of doing one thing, timed in turn, so that whatever else the machine does falls on both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

FEWEST = 30
"""Pairs below which no bar is judged."""


@dataclass(frozen=True)
class Ratio:
    """Median of a ratio over pairs, with the interval of order statistics that holds it at 95% or more."""

    value: float
    low: float
    high: float
    pairs: int

    def within(self, bar: float) -> bool:
        """Whether the bar is not exceeded as far as the pairs can tell. Raises ValueError under FEWEST pairs."""
        if self.pairs < FEWEST:
            raise ValueError(f"a bar is judged on at least {FEWEST} pairs; got {self.pairs}")
        return self.low <= bar


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Seconds of ours over seconds of theirs, pair by pair."""
    ratios = np.sort(np.asarray(ours) / np.asarray(theirs))
    n = len(ratios)
    rank = max(int(binom.ppf(0.025, n, 0.5)), 1)  # of the order statistic at the lower end, counted from 1
    return Ratio(float(np.median(ratios)), float(ratios[rank - 1]), float(ratios[n - rank]), n)


def timed_in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], pairs: int, warm: int = 3
) -> tuple[list[float], list[float]]:
    """Seconds of each call of the two, which take turns at going first."""
    seconds: tuple[list[float], list[float]] = ([], [])
    ways = (ours, theirs)
    for i in range(-warm, pairs):
        for which in (0, 1) if i % 2 else (1, 0):
            started = time.perf_counter()
            ways[which]()
            if i >= 0:
                seconds[which].append(time.perf_counter() - started)
    return seconds
