"""Gaussian data, whose exact denoiser is known in closed form, and small tokens to try it on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Grid, Prediction, Tokens

GRID = Grid(2, 2, 3)
TOKEN = TokenFact(width=4, grid=GRID, channels=4)


class Exact(LevelDenoiser):
    """The best denoiser of data N(mean, spread^2): E[x0 | x] and E[eps | x] are linear in x.

    A clip's mean is its conditioning's pooled number, where there is one. calls: made so far. seen: their noisy values.
    """

    name = "exact_gaussian"

    def __init__(self, process: LevelProcess, spread: float = 0.5, mean: float = 0.0) -> None:
        super().__init__()
        self.process, self.spread, self.mean, self.calls = process, spread, mean, 0
        self.seen: list[Tensor] = []

    def at(self, noisy: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        a, s = self.process.per_token(noisy, level)
        x, variance = noisy.filled(), self.spread**2
        mean: Any = self.mean if conditioning.pooled is None else noisy.per_token(conditioning.pooled)
        gain = a * variance / (a * a * variance + s * s)
        x0 = mean + gain * (x - a * mean)
        eps = s / (a * a * variance + s * s) * (x - a * mean)
        if self.process.kind == "flow":
            return eps - x0
        if self.process.kind == "velocity":
            return a * eps - s * x0
        return x0 if self.process.kind == "clean" else eps

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        raise AssertionError("the exact denoiser is asked in times: use ByTime")


class ByTime(LevelProcess):
    """A process that asks `Exact` in times, before they become the network's coordinate."""

    def __init__(self, inner: LevelProcess) -> None:
        self.inner, self.kind = inner, inner.kind

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.coefficients(level)

    def levels(self, steps: int) -> Tensor:
        return self.inner.levels(steps)

    def predict(
        self,
        denoiser: LevelDenoiser,
        noisy: Tokens,
        level: Tensor,
        conditioning: Conditioning,
        previous: Prediction | None = None,
    ) -> Prediction:
        assert isinstance(denoiser, Exact)
        denoiser.calls += 1
        denoiser.seen.append(noisy.filled())
        return self.prediction(denoiser.at(noisy, level, conditioning), noisy, level)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def token() -> TokenFact:
    return TOKEN


@pytest.fixture
def canvas() -> Tokens:
    return Tokens.canvas(GRID, 5)


@pytest.fixture
def draw() -> Draw:
    return Draw(3, "sample", 0, (0, 1, 2, 3, 4))


@pytest.fixture
def exact():
    return Exact


@pytest.fixture
def by_time():
    return ByTime


@pytest.fixture
def packed() -> Tokens:
    """Three clips in two rows, with padding: grids of 4, 2 and 3 tokens."""
    clip = torch.tensor([[1, 1, 1, 1, 2, 2, 0], [3, 3, 3, 0, 0, 0, 0]])
    grids = (Grid(1, 2, 2), Grid(1, 1, 2), Grid(3, 1, 1))
    values = torch.arange(2 * 7 * 4, dtype=torch.float32).view(2, 7, 4) / 20
    places = [[[0, y, x] for y in (0, 1) for x in (0, 1)] + [[0, 0, 0], [0, 0, 1], [0, 0, 0]]]
    places += [[[t, 0, 0] for t in range(3)] + [[0, 0, 0]] * 4]
    return replace(Tokens(None, torch.tensor(places, dtype=torch.float32), clip, grids), values=values)
