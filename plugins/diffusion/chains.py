"""The chains of the `variational` objective: what they do to data, what a network's output means, and the bound."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.values import Conditioning, Known, Prediction, Tokens
from mutoscope.plugins.diffusion.bound import gaussian_kl

SMALL = 1e-12


class BoundedChain(LevelProcess):
    """A chain of T steps with rates beta_t; a level is t/T, and one in between counts as the nearest step.

    Its first step is not learned: p(x0 | x1) is the forward step itself (Sohl-Dickstein et al. 2015, app. B.2).
    """

    kind = "clean"
    steps: int

    @abstractmethod
    def beta(self) -> Tensor:
        """The rates beta_1 ... beta_T, float64."""

    @abstractmethod
    def term(self, said: Prediction, tokens: Tokens, t: Tensor) -> Tensor:
        """KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) in nats, value by value, B N D; t: K integers from 2."""

    @abstractmethod
    def ends(self) -> Tensor:
        """H_p(X_T) - H_q(X_T | X_0) + H_q(X_1 | X_0) in nats per value: what is left of -K without its terms."""

    def keeps(self) -> Tensor:
        """How much of the data is left at t = 0 ... T: the products of 1 - beta, float64."""
        beta = self.beta()
        return torch.cat([beta.new_ones(1), torch.cumprod(1 - beta, dim=0)])

    def index(self, level: Tensor) -> Tensor:
        """The step t of each level."""
        return (level * self.steps).round().long().clamp(0, self.steps)

    def levels(self, steps: int) -> Tensor:
        """All steps, or as many of them, evenly spaced, first and last included, and 0."""
        chosen = torch.linspace(1, self.steps, min(steps, self.steps), dtype=torch.float64).round().flip(0)
        return torch.cat([chosen, chosen.new_zeros(1)]) / self.steps

    def at(self, table: Tensor, t: Tensor, tokens: Tokens) -> Tensor:
        """Entries of a table of t = 0 ... T at steps t (K integers), broadcastable against B N D, float32."""
        return tokens.per_token(table.float().to(t.device)[t])[..., None]


@final
class GaussianChain(BoundedChain):
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise, and back with a learned mean and variance. Its table App.1.

    The network gives z_mu and z_Sigma. push: as released code has it, mu = x sqrt(1 - beta_t) + z_mu sqrt(beta_t) and
    Sigma = sigmoid(z_Sigma / sqrt(T) + logit beta_t), so that outputs are of unit size and zero is the forward step; else
    as the paper has it, Sigma = sigmoid(z_Sigma + logit beta_t) and mu = (x - z_mu) (1 - Sigma) + z_mu.
    The step back is told as the clean data that has this mean, and as the share of the way between the two fixed
    variances, so that samplers with fewer steps can go by it.

    rates: gives beta_1 ... beta_T, float64; a function, so that they may be learned.
    """

    def __init__(self, steps: int, rates: Callable[[], Tensor], push: bool = True) -> None:
        self.steps, self.rates, self.push = steps, rates, push

    def beta(self) -> Tensor:
        return self.rates()

    def output_width(self, tokens: TokenFact) -> int:
        return 2 * tokens.width

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        keeps = self.keeps().to(level.device)[self.index(level)]
        dtype = level.dtype if level.dtype.is_floating_point else torch.float32
        return keeps.sqrt().to(dtype), (1 - keeps).clamp(min=0).sqrt().to(dtype)

    def prediction(self, raw: Tensor, noisy: Tokens, level: Tensor) -> Prediction:
        t, (a, s) = self.index(level), self.per_token(noisy, level)
        z_mean, z_variance = raw.float().chunk(2, dim=-1)
        of_clean, of_noisy, high, low, logit = (self.at(row, t, noisy) for row in self.tables())
        x, first = noisy.filled().float(), noisy.per_token(t)[..., None] <= 1
        if self.push:
            log_variance = torch.nn.functional.logsigmoid(z_variance / math.sqrt(self.steps) + logit)
            mean = x * (1 - high.exp()).sqrt() + z_mean * (0.5 * high).exp()
        else:
            log_variance = torch.nn.functional.logsigmoid(z_variance + logit)
            mean = z_mean + (x - z_mean) * (1 - log_variance.exp())
        # The step to data is the forward one: its mean is the clean data, its variance the largest.
        clean = torch.where(first, x * (1 - high.exp()).sqrt(), (mean - of_noisy * x) / of_clean)
        share = torch.where(first, 1.0, (log_variance - low) / self.at(self.gap(), t, noisy))
        return Prediction(clean, self.kind, noisy.filled(), a, s, share=share)

    def term(self, said: Prediction, tokens: Tokens, t: Tensor) -> Tensor:
        assert said.share is not None
        of_clean, of_noisy, _, low, _ = (self.at(row, t, tokens) for row in self.tables())
        x = said.at.float()
        log_variance = low + self.at(self.gap(), t, tokens) * said.share.float()
        mean = of_clean * said.as_clean().float() + of_noisy * x
        return gaussian_kl(of_clean * tokens.filled().float() + of_noisy * x, low, mean, log_variance)

    def ends(self) -> Tensor:
        beta, keeps = self.beta(), self.keeps()
        return 0.5 * (math.log(2 * math.pi * math.e) - torch.log1p(-keeps[-1]) + beta[0].log())

    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rows of_clean, of_noisy, log beta, log beta~, logit beta at t = 0 ... T; float64, the first two entries of
        log beta~ alike."""
        beta, keeps = self.beta(), self.keeps()
        now, then = keeps[1:], keeps[:-1]
        of_clean, of_noisy = then.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - then) / (1 - now)
        tilde = (beta * (1 - then) / (1 - now))[1:]
        tilde = torch.cat([tilde[:1], tilde]) if self.steps > 1 else beta
        rows = of_clean, of_noisy, beta.log(), tilde.log(), beta.log() - torch.log1p(-beta)
        return tuple(torch.cat([row[:1], row]) for row in rows)  # type: ignore[return-value]

    def gap(self) -> Tensor:
        """log beta - log beta~ = log((1 - abar_t) / (1 - abar_{t-1})) at t = 0 ... T, float64; 1 for none."""
        keeps = self.keeps()
        gap = torch.log1p(-keeps[2:]) - torch.log1p(-keeps[1:-1])
        return torch.cat([gap.new_ones(2), gap])


@final
class BinomialChain(BoundedChain):
    """Bits that are drawn anew with probability beta_t = 1 / (T - t + 1): at T nothing is left. Its table App.1.

    Data above 0 is the bit 1 and else 0; noisy values are 1 and -1. The network's output is added to the forward step's
    logit: p(x_{t-1} = 1 | x_t) = sigmoid(z + logit(x_t (1 - beta_t) + beta_t / 2)), and the prediction's field is what
    this expects, between -1 and 1. The noise of `noised` is normal, as everywhere: its quantile decides.
    """

    additive = False

    def __init__(self, steps: int) -> None:
        self.steps = steps
        with torch.device("cpu"):
            self._beta = 1 / (steps - torch.arange(1, steps + 1, dtype=torch.float64) + 1)

    def beta(self) -> Tensor:
        return self._beta

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """How much of a bit is left, and what is not."""
        keeps = self.keeps().to(level.device)[self.index(level)].to(level.dtype)
        return keeps, 1 - keeps

    def noised(self, tokens: Tokens, noise: Tensor, level: Tensor, known: Known | None = None) -> Tokens:
        keeps, _ = self.per_token(tokens, level)
        one = 0.5 + 0.5 * keeps * bits(tokens.filled())
        values = torch.where(torch.special.ndtr(noise) < one, 1.0, -1.0)
        if known is not None:
            values = torch.where(known.where[..., None], bits(known.values), values)
        return tokens.with_values(values)

    def predict(
        self,
        denoiser: LevelDenoiser,
        noisy: Tokens,
        level: Tensor,
        conditioning: Conditioning,
        previous: Prediction | None = None,
    ) -> Prediction:
        return self.prediction(denoiser(noisy, self.coordinate(level), conditioning), noisy, level)

    def prediction(self, raw: Tensor, noisy: Tokens, level: Tensor) -> Prediction:
        t, (a, s), x = self.index(level), self.per_token(noisy, level), noisy.filled()
        rate = self.at(torch.cat([self._beta[:1], self._beta]), t, noisy)
        # logit((1 + x (1 - beta)) / 2) = 2 artanh(x (1 - beta)); the output moves it, but at the first step.
        forward = 2 * torch.atanh(x * (1 - rate))
        moved = torch.where(noisy.per_token(t)[..., None] <= 1, 0.0, raw.float())
        return Prediction(torch.tanh((forward + moved) / 2), self.kind, x, a, s)

    def term(self, said: Prediction, tokens: Tokens, t: Tensor) -> Tensor:
        keeps, rate = self.keeps(), torch.cat([self._beta[:1], self._beta])
        before = self.at(torch.cat([keeps[:1], keeps[:-1]]), t, tokens)
        x0, xt, rate = bits(tokens.filled()).double(), said.at.double(), self.at(rate, t, tokens).double()
        # q(x_{t-1} = 1 | x_t, x0) is proportional to q(x_t | x_{t-1} = 1) q(x_{t-1} = 1 | x0).
        one = (1 + xt * (1 - rate)) * (1 + x0 * before)
        other = (1 - xt * (1 - rate)) * (1 - x0 * before)
        q, p = one / (one + other), (1 + said.field.double()) / 2
        return _binary_kl(q, p).float()

    def ends(self) -> Tensor:
        """H_p(X_T) is H_q(X_T | X_0), a fair coin's: what is left is the first step's entropy."""
        flip = self._beta[0] / 2
        return -(flip * flip.log() + (1 - flip) * torch.log1p(-flip))


def bits(values: Tensor) -> Tensor:
    """1 for values above 0, else -1."""
    return torch.where(values > 0, 1.0, -1.0)


def _binary_kl(q: Tensor, p: Tensor) -> Tensor:
    p = p.clamp(SMALL, 1 - SMALL)
    return torch.xlogy(q, q / p) + torch.xlogy(1 - q, (1 - q) / (1 - p))
