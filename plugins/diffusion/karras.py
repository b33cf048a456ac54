"""Processes with a preconditioned network: Karras et al. 2022, table 1. The network F is wrapped so that

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)

predicts the clean data, where x = x0 + sigma eps; the process's own tokens may be x times a scale.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.process import LevelProcess
from mutoscope.core.values import Conditioning, Prediction, Tokens


class Preconditioning(NamedTuple):
    """The coefficients at some sigma, of its shape. weight: of the squared error of D."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor
    weight: Tensor


class KarrasProcess(LevelProcess):
    """x = scale(sigma) (x0 + sigma eps), the network preconditioned; time 0 is sigma 0."""

    kind = "clean"

    @abstractmethod
    def sigma(self, level: Tensor) -> Tensor:
        """The noise-to-signal ratio at a time."""

    @abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of `sigma`."""

    @abstractmethod
    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        """The row of table 1."""

    def scale(self, sigma: Tensor) -> Tensor:
        """What x0 + sigma eps is multiplied with."""
        return torch.ones_like(sigma)

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma(level)
        scale = self.scale(sigma)
        return scale, scale * sigma

    def coordinate(self, level: Tensor) -> Tensor:
        """c_noise."""
        return self.preconditioning(self.sigma(level)).noise

    def predict(
        self,
        denoiser: LevelDenoiser,
        noisy: Tokens,
        level: Tensor,
        conditioning: Conditioning,
        previous: Prediction | None = None,
    ) -> Prediction:
        sigma = self.sigma(level.float())
        c, scale = self.preconditioning(sigma), self.scale(sigma)

        def per_token(x: Tensor) -> Tensor:
            return noisy.per_token(x)[..., None]

        at = noisy.filled()
        x = at / per_token(scale)
        led = per_token(c.into) * x
        if conditioning.known is not None:
            # Known tokens are clean: they are led in as at sigma 0.
            clean = self.preconditioning(torch.zeros_like(sigma)).into
            led = torch.where(conditioning.known.where[..., None], per_token(clean) * at, led)
        raw = denoiser(noisy.with_values(led), c.noise, conditioning)
        field = per_token(c.skip) * x + per_token(c.out) * raw
        return Prediction(field, "clean", at, per_token(scale), per_token(scale * sigma))


@final
class EdmProcess(KarrasProcess):
    """The paper's own: unit variance into the network and out of it at every sigma. Table 1, last column.

    The time of a sigma is (sigma / largest)^(1/rho), so that its levels (eq. 5) are evenly spaced in time. data: the
    data's deviation, sigma_data.
    """

    def __init__(self, data: float = 0.5, smallest: float = 0.002, largest: float = 80.0, rho: float = 7.0) -> None:
        self.data, self.smallest, self.largest, self.rho = data, smallest, largest, rho

    def sigma(self, level: Tensor) -> Tensor:
        return self.largest * level.clamp(min=0) ** self.rho

    def time(self, sigma: Tensor) -> Tensor:
        return (sigma / self.largest) ** (1 / self.rho)

    def levels(self, steps: int) -> Tensor:
        last = (self.smallest / self.largest) ** (1 / self.rho)
        return _down_to_zero(torch.linspace(1.0, last, steps, dtype=torch.float64))

    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        square, data = sigma.square(), self.data**2
        root = (square + data).sqrt()
        noise = sigma.clamp(min=TINY).log() / 4
        weight = (square + data) / (sigma * self.data).square().clamp(min=TINY)
        return Preconditioning(data / (square + data), sigma * self.data / root, 1 / root, noise, weight)


@final
class VpProcess(KarrasProcess):
    """Song et al.'s variance-preserving equation in continuous time. Table 1, first column.

    sigma(t)^2 = exp(t^2 (last - first) / 2 + t first) - 1, and tokens are scaled to constant variance.
    """

    def __init__(self, first: float = 0.1, last: float = 20.0, steps: int = 1000, end: float = 1e-3) -> None:
        self.first, self.grows, self.steps, self.end = first, last - first, steps, end

    def sigma(self, level: Tensor) -> Tensor:
        return torch.expm1(0.5 * self.grows * level.square() + self.first * level).clamp(min=0).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        root = (self.first**2 + 2 * self.grows * torch.log1p(sigma.square())).sqrt()
        return (root - self.first) / self.grows

    def scale(self, sigma: Tensor) -> Tensor:
        return (1 + sigma.square()).rsqrt()

    def levels(self, steps: int) -> Tensor:
        return _down_to_zero(torch.linspace(1.0, self.end, steps, dtype=torch.float64))

    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        noise = (self.steps - 1) * self.time(sigma)
        one = torch.ones_like(sigma)
        return Preconditioning(one, -sigma, self.scale(sigma), noise, 1 / sigma.square().clamp(min=TINY))


@final
class VeProcess(KarrasProcess):
    """Song et al.'s variance-exploding equation. Table 1, second column: sigma^2 grows with time."""

    def __init__(self, smallest: float = 0.02, largest: float = 100.0) -> None:
        self.smallest, self.largest = smallest, largest

    def sigma(self, level: Tensor) -> Tensor:
        return self.largest * level.clamp(min=0).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        return (sigma / self.largest).square()

    def levels(self, steps: int) -> Tensor:
        """Geometric in sigma."""
        last = 2 * math.log(self.smallest / self.largest)
        return _down_to_zero(torch.linspace(0.0, last, steps, dtype=torch.float64).exp())

    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        one = torch.ones_like(sigma)
        noise = (sigma / 2).clamp(min=TINY).log()
        return Preconditioning(one, sigma, one, noise, 1 / sigma.square().clamp(min=TINY))


TINY = 1e-12


def _down_to_zero(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])
