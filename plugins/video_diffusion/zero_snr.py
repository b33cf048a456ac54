"""The `zero_snr` objective: velocity under a schedule that ends in noise alone, with the previous estimate shown."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser, RecallingDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import TokenFact
from mutoscope.core.layers.means import clip_means
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Positive, Share, Steps
from mutoscope.core.values import Conditioning, Example, Losses, Prediction, Tokens


def rescaled(signal: np.ndarray) -> np.ndarray:
    """Signals a_1 ... a_T moved and stretched so that the last is 0 and the first what it was. Lin et al. 2023, alg. 1."""
    return (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])


@final
class ZeroSnrProcess(LevelProcess):
    """Steps t = 0 (data) to T, at which no signal is left; the network gives the velocity a eps - s x0.

    A level is t/T; one in between counts as the nearest step. The network is told t - 1, as released code of steps
    counts. recalls: whether it is shown its previous estimate of the data, beside the noisy values: zeros where there
    is none (Chen et al. 2023, arXiv:2208.04202, sec. 2.3).
    """

    kind = "velocity"

    def __init__(self, steps: int, ends: tuple[float, float], recalls: bool) -> None:
        beta = np.linspace(ends[0], ends[1], steps, dtype=np.float64) * (1000 / steps)
        if not 0 < beta.min() <= beta.max() < 1:
            raise InputError(field="ends", problem=f"a variance of {beta.max():.4g} over {steps} steps is no share")
        self.steps, self.recalls = steps, recalls
        self.signal = np.concatenate([[1.0], rescaled(np.sqrt(np.cumprod(1.0 - beta)))])
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def index(self, level: Tensor) -> Tensor:
        """The step t of each level, integers 0 ... T."""
        return (level * self.steps).round().long().clamp(0, self.steps)

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        place = (level.device, level.dtype)
        if place not in self._tables:
            exact = torch.from_numpy(np.stack([self.signal, np.sqrt(1.0 - self.signal**2)]))
            self._tables[place] = exact.to(level.dtype).to(level.device)
        signal, noise = self._tables[place][:, self.index(level)]
        return signal, noise

    def coordinate(self, level: Tensor) -> Tensor:
        return (self.index(level) - 1).clamp(min=0).to(level.dtype)

    def levels(self, steps: int) -> Tensor:
        """Steps evenly from T, where sampling starts from noise alone as training did (Lin et al. 2023, sec. 3.3)."""
        if steps > self.steps:
            raise InputError(
                field="sampler.steps", problem="more than the process has", got=steps, allowed=f"at most {self.steps}"
            )
        return super().levels(steps)

    def input_width(self, tokens: TokenFact) -> int:
        return tokens.width * (2 if self.recalls else 1)

    def predict(
        self,
        denoiser: LevelDenoiser,
        noisy: Tokens,
        level: Tensor,
        conditioning: Conditioning,
        previous: Prediction | None = None,
    ) -> Prediction:
        estimate = None if previous is None else previous.as_clean()
        return self.recalling(denoiser, noisy, level, conditioning, estimate)

    def recalling(
        self,
        denoiser: LevelDenoiser,
        noisy: Tokens,
        level: Tensor,
        conditioning: Conditioning,
        estimate: Tensor | None,
    ) -> Prediction:
        """One network call; estimate: of the data, B N D, that it is shown."""
        shown, x = noisy, noisy.filled()
        if self.recalls:
            shown = noisy.with_values(torch.cat([x, torch.zeros_like(x) if estimate is None else estimate], dim=-1))
        return self.prediction(denoiser(shown, self.coordinate(level), conditioning), noisy, level)


@final
class ZeroSnr(Objective):
    """Velocity prediction from linear variances rescaled to end at no signal, with self-conditioning.

    As W.A.L.T trains (Gupta et al. 2023, sec. 4.1 and table 8, arXiv:2312.06662): schedule after Lin et al. 2023,
    arXiv:2305.08891; the previous estimate of the data is shown, without gradient, to a share of the clips, and zeros
    to the rest (Chen et al. 2023, arXiv:2208.04202). The error is of the velocity, mean over each clip's tokens, then
    over clips.

    steps: T. ends: first and last variance of a thousand steps before rescaling. recall: that share; 0 leaves the
    network without its second input.
    """

    name = "zero_snr"
    paper = "Lin et al. 2023, arXiv:2305.08891"
    accepts = RecallingDenoiser

    def __init__(
        self, *, steps: Steps = 1000, ends: tuple[Positive, Positive] = (1e-4, 0.02), recall: Share = 0.9
    ) -> None:
        super().__init__()
        if steps < 2:
            raise InputError(field="steps", problem="a schedule that ends at no signal has at least two", got=steps)
        self.recall, self.own = recall, ZeroSnrProcess(steps, ends, recalls=recall > 0)
        self.process = self.own

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, told, process = example.tokens, example.conditioning, self.own
        assert tokens is not None
        x0, eps = tokens.filled(), draw.like(tokens)
        level = (draw.uniform("time") * process.steps).floor().add(1) / process.steps
        noisy = process.noised(tokens, eps, level, told.known)
        estimate = None
        if self.recall > 0:
            with torch.no_grad():
                first = process.recalling(learner, noisy, level, told, None).as_clean().float()
            shown = tokens.per_token(draw.uniform("recall").view(-1) < self.recall)[..., None]
            estimate = torch.where(shown, first, 0.0)
        field = process.recalling(learner, noisy, level, told, estimate).field.float()
        a, s = process.per_token(tokens, level)
        error = clip_means((field - (a * eps - s * x0)).square().mean(dim=-1), tokens, told.known).mean()
        return Losses(error, {"error": error.detach()})
