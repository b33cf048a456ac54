"""What the samplers of level processes share: the loop over times, guidance, and clean tokens at known places."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, cast

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import TokenFact
from mutoscope.core.guidance import Guided, calls_at
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Share
from mutoscope.core.values import Conditioning, Prediction, Tokens

Interval = tuple[Share, Share]
"""Times (low, high) within which guidance acts."""


class LevelSampler(Sampler):
    """Goes down the times of a level process, one step at a time, from noise to data."""

    accepts = LevelDenoiser

    def __init__(
        self, tokens: TokenFact, process: LevelProcess, steps: int, guidance: float, interval: tuple[float, float]
    ) -> None:
        super().__init__()
        if interval[0] > interval[1]:
            raise InputError(field="guidance_interval", problem="is (low, high)", got=list(interval))
        self.width, self.process, self.steps = tokens.width, process, steps
        self.guidance, self.interval = guidance, (interval[0], interval[1])
        self.times()

    @abstractmethod
    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        """The tokens' values at times[i + 1], B N D, from those at times[i]."""

    def times(self) -> list[float]:
        """Times from the process, first to last: steps + 1 numbers. Raises InputError on steps that it cannot have."""
        with torch.device("cpu"):
            return self.process.levels(self.steps).tolist()

    def called(self) -> list[float]:
        """The time of every prediction that `sample` makes."""
        return self.times()[:-1]

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        guided = Guided(self.process, denoiser, conditioning, self.guidance, self.interval)
        walk = Walk(guided, canvas, self.width, self.times(), draw)
        # The spread of the noisy tokens at the first time, for data of unit variance.
        a, s = walk.coefficients(0)
        x = walk.pinned(draw.like(canvas, width=self.width) * (a * a + s * s) ** 0.5)
        for i in range(self.steps):
            x = walk.pinned(self.step(walk, x, i))
        return canvas.with_values(x)

    def calls(self, canvas: Tokens) -> int:
        return sum(calls_at(time, self.guidance, self.interval) for time in self.called())


class Walk:
    """One sample under way: its times, and predictions along them.

    clean: what a multistep sampler keeps of its predictions, the latest first. last: the latest prediction, which a
    network that recalls its estimate is shown.
    """

    def __init__(self, guided: Guided, canvas: Tokens, width: int, times: list[float], draw: Draw) -> None:
        self.guided, self.canvas, self.width, self.times, self.draw = guided, canvas, width, times, draw
        self.known = guided.told.known
        self.clean: list[Tensor] = []
        self.last: Prediction | None = None
        with torch.device("cpu"):
            a, s = guided.process.coefficients(torch.tensor(times, dtype=torch.float64))
        self.signal, self.noise = cast(list[float], a.tolist()), cast(list[float], s.tolist())

    def coefficients(self, i: int) -> tuple[float, float]:
        """Signal a and noise s at times[i]."""
        return self.signal[i], self.noise[i]

    def predict(self, x: Tensor, i: int) -> Prediction:
        """The guided prediction for values x at times[i]."""
        self.last = self.guided.predict(self.canvas.with_values(x), self.times[i], self.last)
        return self.last

    def straight(self, i: int) -> tuple[float, float]:
        """(a + s, s / (a + s)) at times[i].

        In y = x / (a + s) and tau = s / (a + s), the probability-flow equation of any level process is
        dy/dtau = eps - x0, which is finite at both ends; rectified flow is the case a + s = 1.
        """
        a, s = self.coefficients(i)
        return a + s, s / (a + s)

    def slope(self, x: Tensor, i: int) -> Tensor:
        """dy/dtau = eps - x0 at values x and times[i], B N D float32."""
        return self.predict(x, i).as_flow().float()

    def fresh(self, i: int) -> Tensor:
        """Noise of the i-th step, B N D, independent of that of all others."""
        return self.draw.at(i).like(self.canvas, width=self.width)

    def pinned(self, x: Tensor) -> Tensor:
        """x, clean where tokens are known."""
        return x if self.known is None else torch.where(self.known.where[..., None], self.known.values, x)


class Posterior(NamedTuple):
    """The Gaussian q(x_then | x_now, x0): mean of_clean x0 + of_noisy x_now. forward: variance of q(x_now | x_then)."""

    of_clean: float
    of_noisy: float
    variance: float
    forward: float


def posterior(now: tuple[float, float], then: tuple[float, float]) -> Posterior:
    """The step back between two times given by their (signal, noise). Ho et al. 2020, eq. 6 and 7, for any process.

    With r = a_now / a_then the forward step is x_now = r x_then + noise of variance s_now^2 - r^2 s_then^2.
    """
    (a, s), (a_then, s_then) = now, then
    r = a / a_then
    forward = max(s * s - (r * s_then) ** 2, 0.0)
    return Posterior(a_then * forward / s**2, r * s_then**2 / s**2, forward * s_then**2 / s**2, forward)
