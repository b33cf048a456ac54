"""One step of a sampler, without noise and back into it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mutoscope.core.process import LevelProcess
from mutoscope.core.values import Known

Coefficients = tuple[float, float]
"""Signal and noise of a time."""


class Times(NamedTuple):
    """Times of a sampler from noise to data, and the coefficients of each."""

    times: list[float]
    coefficients: list[Coefficients]


def times_of(process: LevelProcess, steps: int) -> Times:
    """So many steps, evenly. Raises InputError on steps that the process cannot have."""
    with torch.device("cpu"):
        levels = process.levels(steps)
        a, s = process.coefficients(levels)
    return Times(levels.tolist(), list(zip(a.tolist(), s.tolist(), strict=True)))


def without_noise(clean: Tensor, eps: Tensor, then: Coefficients) -> Tensor:
    """x at another time: Song et al. 2021, eq. 12, arXiv:2010.02502."""
    return then[0] * clean + then[1] * eps


def posterior_deviation(now: Coefficients, then: Coefficients) -> float:
    """Of q(x_then | x_now, x0), at most the noise there: Ho et al. 2020, eq. 7, for any process."""
    forward = max(now[1] ** 2 - (now[0] / then[0] * then[1]) ** 2, 0.0)
    return min(forward**0.5 * then[1] / now[1], then[1])


def noised_back(x: Tensor, now: Coefficients, then: Coefficients, z: Tensor) -> Tensor:
    """x at a noisier time: the forward step of the process, with noise z."""
    r = then[0] / now[0]
    return r * x + max(then[1] ** 2 - (r * now[1]) ** 2, 0.0) ** 0.5 * z


def pinned(x: Tensor, known: Known | None) -> Tensor:
    """x, clean where tokens are known."""
    return x if known is None else torch.where(known.where[..., None], known.values, x)
