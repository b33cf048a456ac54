"""The `improved_ddpm` objective: the variance of each step is learned too."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import NonNegative, Positive, Steps
from mutoscope.core.values import Example, Known, Losses, Prediction, Tokens
from mutoscope.plugins.diffusion.bound import gaussian_kl, gaussian_nll, pixel_nll
from mutoscope.plugins.diffusion.ddpm import DdpmProcess, Schedule, betas
from mutoscope.plugins.diffusion.errors import clip_means

KEPT = 10
"""Losses remembered of every step, for the drawing of times by importance."""
ALIKE = 0.001
"""Share of times that is drawn evenly even so, as released code has it."""
SMALL = 1e-30


@final
class LearnedProcess(LevelProcess):
    """A chain whose network gives noise and, in as many further values, the variance of the step back.

    Nichol & Dhariwal 2021, sec. 3.1 and eq. 15: log variance = v log beta + (1 - v) log beta~ with v = (out + 1) / 2,
    unbounded. The share v holds for a shorter chain's steps too (sec. 4). The network is told the step in thousandths
    of the whole chain.
    """

    kind = "noise"

    def __init__(self, chain: DdpmProcess) -> None:
        self.chain = chain

    def output_width(self, tokens: TokenFact) -> int:
        return 2 * tokens.width

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return self.chain.coefficients(level)

    def coordinate(self, level: Tensor) -> Tensor:
        return self.chain.coordinate(level) * (1000.0 / self.chain.steps)

    def levels(self, steps: int) -> Tensor:
        return self.chain.levels(steps)

    def prediction(self, raw: Tensor, noisy: Tokens, level: Tensor) -> Prediction:
        field, v = raw.chunk(2, dim=-1)
        a, s = self.per_token(noisy, level)
        return Prediction(field, self.kind, noisy.filled(), a, s, share=(v + 1) / 2)


class Chain:
    """Tables of the steps back, indexed by t = 1 ... T: rows of_clean, of_noisy, log beta, log beta~; float64.

    The posterior's variance at t = 1 is zero; as in released code, that of t = 2 stands in its place.
    """

    def __init__(self, beta: np.ndarray) -> None:
        abar = np.concatenate([[1.0], np.cumprod(1.0 - beta)])
        now, then = abar[1:], abar[:-1]
        tilde = beta * (1 - then) / (1 - now)
        tilde = np.append(tilde[1:2] if len(beta) > 1 else beta[:1], tilde[1:])
        of_clean, of_noisy = np.sqrt(then) * beta / (1 - now), np.sqrt(1 - beta) * (1 - then) / (1 - now)
        rows = np.stack([of_clean, of_noisy, np.log(beta), np.log(tilde)])
        self.table = torch.from_numpy(np.concatenate([np.zeros((4, 1)), rows], axis=1))
        self._places: dict[torch.device, Tensor] = {}

    def at(self, t: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four rows at steps t (K integers), each broadcastable against B N D, float32."""
        if t.device not in self._places:
            self._places[t.device] = self.table.float().to(t.device)
        of_clean, of_noisy, high, low = (tokens.per_token(row[t])[..., None] for row in self._places[t.device])
        return of_clean, of_noisy, high, low


@final
class ImprovedDdpm(Objective):
    """Denoising diffusion with a learned variance. Nichol & Dhariwal 2021, arXiv:2102.09672.

    `hybrid` (eq. 16): the squared error of the noise, plus `bound` times the variational bound, whose gradient moves
    the variance alone. `simple` is the error alone and leaves the variance where it is; `bound` is the variational
    bound alone, for which `times: importance` was made. All terms are means over a clip's values, the bound in bits.

    steps: T. schedule, ends: of the variances, as in `ddpm`. times: drawn evenly, or by importance: p_t is proportional
    to the root mean square of the last ten losses of step t, once every step has ten, and a loss is weighed by
    1 / (T p_t) (eq. 18); each process of a distributed run remembers its own. bound: weight of the bound, which is a
    sum over all T steps. decoder: the last step's likelihood; `pixels` counts the mass in a pixel's bin (Ho et al.
    2020, eq. 13), `density` is for values that are no pixels.
    """

    name = "improved_ddpm"
    paper = "Nichol & Dhariwal 2021, arXiv:2102.09672"
    accepts = LevelDenoiser

    history: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        steps: Steps = 1000,
        schedule: Schedule = "cosine",
        ends: tuple[Positive, Positive] | None = None,
        descend: Literal["simple", "hybrid", "bound"] = "hybrid",
        times: Literal["even", "importance"] = "even",
        bound: NonNegative = 0.001,
        decoder: Literal["pixels", "density"] = "pixels",
    ) -> None:
        super().__init__()
        if ends is not None and schedule == "cosine":
            raise InputError(field="ends", problem="the cosine schedule has none", got=list(ends))
        beta = betas(schedule, steps, ends)
        if beta.max() >= 1.0:
            raise InputError(
                field="ends", problem=f"a variance of {beta.max():.4g} is no share of the whole over {steps} steps"
            )
        self.steps, self.descend, self.times, self.weight, self.decoder = steps, descend, times, bound, decoder
        self.process = LearnedProcess(DdpmProcess(beta))
        self.chain = Chain(beta)
        self.register_buffer("history", torch.zeros(steps if times == "importance" else 0, KEPT))
        self.register_buffer("seen", torch.zeros(len(self.history), dtype=torch.long))

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, told, process = example.tokens, example.conditioning, self.process
        assert tokens is not None
        eps = draw.like(tokens)
        t, weights = self.drawn_times(draw)
        level = t / self.steps
        noisy = process.noised(tokens, eps, level, told.known)
        said = process.predict(learner, noisy, level, told)
        error = clip_means((said.field.float() - eps).square().mean(dim=-1), tokens, told.known)
        if self.descend == "hybrid":
            said = replace(said, field=said.field.detach())
        bits = self.steps * self.term(said, tokens, t, told.known)
        each = {"simple": error, "hybrid": error + self.weight * bits, "bound": bits}[self.descend]
        if self.times == "importance":
            self.remember(t, each.detach())
        parts = {"error": error.detach().mean(), "bits": (weights * bits).detach().mean()}
        return Losses((weights * each).mean(), parts)

    def term(self, said: Prediction, tokens: Tokens, t: Tensor, known: Known | None = None) -> Tensor:
        """L_{t-1} of the bound at steps t (K integers): bits per value of each clip, K numbers."""
        assert said.share is not None
        x0, x = tokens.filled().float(), said.at.float()
        of_clean, of_noisy, high, low = self.chain.at(t, tokens)
        mean = of_clean * said.as_clean().float() + of_noisy * x
        log_variance = low + (high - low) * said.share.float()
        nll = pixel_nll if self.decoder == "pixels" else gaussian_nll
        divergence = gaussian_kl(of_clean * x0 + of_noisy * x, low, mean, log_variance)
        first = tokens.per_token(t)[..., None] == 1
        nats = torch.where(first, nll(x0, mean, log_variance), divergence)
        return clip_means(nats.mean(dim=-1) / math.log(2.0), tokens, known)

    def drawn_times(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """A step 1 ... T for each clip, and the weight of its loss: K integers and K numbers."""
        u = draw.uniform("time")
        if self.times == "even":
            return (u * self.steps).long() + 1, torch.ones_like(u)
        p = self.importance().to(u.device)
        t = torch.searchsorted(p.cumsum(0), u).clamp(max=self.steps - 1)
        return t + 1, 1.0 / (self.steps * p[t])

    def importance(self) -> Tensor:
        """The probability of every step, T numbers: even until all have ten losses."""
        p = self.history.square().mean(dim=1).sqrt()
        p = (1 - ALIKE) * p / p.sum().clamp(min=SMALL) + ALIKE / self.steps
        return torch.where((self.seen >= KEPT).all(), p, 1.0 / self.steps)

    def remember(self, t: Tensor, loss: Tensor) -> None:
        """Writes the losses of steps t over the oldest of each step; unweighted ones."""
        t = t - 1
        # Clips of one batch that drew the same step take places after each other.
        rank = (t[:, None] == t[None]).tril(-1).sum(1)
        self.history[t, (self.seen[t] + rank) % KEPT] = loss.to(self.history)
        self.seen.index_add_(0, t, torch.ones_like(t))
