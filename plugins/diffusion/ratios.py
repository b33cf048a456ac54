"""Times of a level process by its noise-to-signal ratio."""

from __future__ import annotations

import math

import torch

from mutoscope.core.process import LevelProcess

HALVINGS = 60


def level_at(process: LevelProcess, time: float) -> tuple[float, float]:
    """Signal a and noise s at a time."""
    with torch.device("cpu"):
        a, s = process.coefficients(torch.tensor(time, dtype=torch.float64))
    return float(a), float(s)


def ratio_at(process: LevelProcess, time: float) -> float:
    """s / a at a time, infinite where there is no signal."""
    a, s = level_at(process, time)
    return s / a if a > 0 else math.inf


def time_of(process: LevelProcess, ratio: float) -> float:
    """The time at which s / a is `ratio`, by bisection; of a chain the nearest below.

    Times beyond 1 are looked at where the ratio at 1 is less and the process goes on.
    """
    low, high = 0.0, 1.0
    if ratio_at(process, 1.0) < ratio:
        if ratio_at(process, 2.0) < ratio:
            return 1.0
        high = 2.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio_at(process, middle) <= ratio else (low, middle)
    return low
