"""Terms of the variational bound: Gaussian divergences and likelihoods, in nats, value by value."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALF_BIN = 1.0 / 255.0
"""Half the width of one of 256 pixel values in [-1, 1]."""
SURE = 1e-12
"""Smallest probability of a pixel value that is told apart."""


def gaussian_kl(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, e^log_variance) || N(other, e^other_log_variance))."""
    gap = log_variance - other_log_variance
    return 0.5 * (gap.exp() - 1.0 - gap + (mean - other).square() * torch.exp(-other_log_variance))


def gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log of a Gaussian's density at x."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).square() * torch.exp(-log_variance))


def pixel_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log of a Gaussian's mass in the bin of a pixel value x in [-1, 1]; the outer bins are open.

    Ho et al. 2020, eq. 13.
    """
    scale = torch.exp(-0.5 * log_variance)
    above = torch.special.ndtr(((x + HALF_BIN) - mean) * scale)
    below = torch.special.ndtr(((x - HALF_BIN) - mean) * scale)
    above = torch.where(x > 1 - HALF_BIN, 1.0, above)
    below = torch.where(x < HALF_BIN - 1, 0.0, below)
    return -(above - below).clamp(min=SURE).log()
