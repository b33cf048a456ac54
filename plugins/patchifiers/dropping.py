"""How many tokens of a training clip are dropped, and which. Dehghani et al. 2023 (NaViT), sec. 2.2 and app. B."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mutoscope.core.randomness import Draw
from mutoscope.core.values import Grid

Way = Literal["none", "constant", "beta", "size", "schedule"]
SHARPNESS = 0.3
"""Variance of the Beta distribution, as a share of that of a coin of the same mean."""
JITTER = 0.02
"""Standard deviation of a rate about its mean for the clip's size; cut at two of them."""


class Dropping(NamedTuple):
    """Rates of dropped tokens.

    way: `constant`, every clip loses the share `rate`; `beta`, a clip loses `most` times a number from a Beta
    distribution, `rate` on average; `size`, from `least` for the shortest clip to `most` for the longest, jittered;
    `schedule`, from `least` to `most` over training, half way at step `middle`, within about four times `span` steps;
    a negative span falls.
    """

    way: Way
    rate: float
    least: float
    most: float
    middle: float
    span: float

    def problem(self) -> str | None:
        """What is wrong with the settings, as `setting: problem`."""
        if self.way == "beta" and not 0 < self.rate < self.most:
            return f"drop_rate: is the mean of a Beta distribution on (0, {self.most:g}); got {self.rate:g}"
        if self.way in ("size", "schedule") and self.least > self.most:
            return f"drop_least: is more than drop_most; got {self.least:g} and {self.most:g}"
        if self.way == "schedule" and self.span == 0:
            return "drop_span: must not be zero"
        return None

    def rates(self, lengths: Sequence[int], bounds: tuple[int, int], draw: Draw) -> list[float]:
        """The share that each clip loses. bounds: tokens of the shortest and of the longest clip there can be."""
        match self.way:
            case "none":
                return [0.0] * len(lengths)
            case "constant":
                return [self.rate] * len(lengths)
            case "beta":
                a, b = beta_of(self.rate / self.most)
                return [self.most * float(draw.numpy("rate", clip).beta(a, b)) for clip in draw.clips]
            case "size":
                return [self._sized(n, bounds, draw, clip) for n, clip in zip(lengths, draw.clips, strict=True)]
            case "schedule":
                return [self.scheduled(draw.step)] * len(lengths)

    def scheduled(self, step: int) -> float:
        """least + (most - least) sigmoid((step - middle) / span)."""
        x = (step - self.middle) / self.span
        return self.least + (self.most - self.least) * 0.5 * (1 + math.tanh(x / 2))

    def kept(self, grids: Sequence[Grid], bounds: tuple[int, int], draw: Draw) -> list[np.ndarray]:
        """The cells of each clip that stay, in order, at least one; chosen evenly."""
        lengths = [grid.cells for grid in grids]
        chosen = []
        for n, rate, clip in zip(lengths, self.rates(lengths, bounds, draw), draw.clips, strict=True):
            chance = draw.numpy("keep", clip)
            # Rounded up or down by chance, so that short clips lose their share on average too.
            lost = min(n - 1, int(n * rate + chance.random()))
            chosen.append(np.sort(chance.permutation(n)[: n - lost]))
        return chosen

    def _sized(self, length: int, bounds: tuple[int, int], draw: Draw, clip: int) -> float:
        low, high = bounds
        mean = self.least + (self.most - self.least) * (length - low) / max(1, high - low)
        chance = draw.numpy("rate", clip)
        jitter = next(z for z in iter(chance.standard_normal, None) if abs(z) <= 2)
        return min(1.0, max(0.0, mean + JITTER * float(jitter)))


def beta_of(mean: float) -> tuple[float, float]:
    """The parameters (a, b) of a Beta distribution of this mean and variance `SHARPNESS` mean (1 - mean)."""
    total = 1 / SHARPNESS - 1
    return mean * total, (1 - mean) * total
