"""Losses of the two players, from the scores of real and generated clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.discriminator import Discriminator


class Loss(NamedTuple):
    """critic: of real and generated scores. generator: of generated scores. Scalars, means over places and clips.
    even: the score at which a discriminator cannot tell."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    even: float = 0.0


def _two_way(score: Tensor, real: bool) -> Tensor:
    """Cross-entropy of a softmax over (fake, real), whose logits differ by the score."""
    logits = torch.stack([torch.zeros_like(score), score], dim=-1).flatten(0, -2)
    return F.cross_entropy(logits, torch.full((len(logits),), int(real), dtype=torch.long, device=score.device))


LOSSES: dict[str, Loss] = {
    # Goodfellow et al. 2014, arXiv:1406.2661, sec. 3: minimise -log D(G(z)).
    "non_saturating": Loss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(), lambda fake: F.softplus(-fake).mean()
    ),
    # Vondrick et al. 2016, arXiv:1609.02612, sec. 3.2: a classifier of two classes.
    "softmax": Loss(lambda real, fake: _two_way(real, True) + _two_way(fake, False), lambda fake: _two_way(fake, True)),
    # Lim & Ye 2017, arXiv:1705.02894.
    "hinge": Loss(lambda real, fake: F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean(), lambda fake: -fake.mean()),
    # Arjovsky et al. 2017, arXiv:1701.07875.
    "wasserstein": Loss(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
    # Mao et al. 2016, arXiv:1611.04076, eq. 9 with a = 0, b = c = 1.
    "least_squares": Loss(
        lambda real, fake: 0.5 * ((real - 1.0).square().mean() + fake.square().mean()),
        lambda fake: 0.5 * (fake - 1.0).square().mean(),
        even=0.5,
    ),
}


def split(scores: Tensor, critic: Discriminator) -> tuple[Tensor, Tensor | None]:
    """The scores of a discriminator, B x places, and its category logits B x classes x places, or None.

    Of two outputs the score is the difference, real less fake.
    """
    if critic.outputs == 1 and not critic.categories:
        return scores.flatten(1), None
    scores = scores.flatten(2) if scores.ndim > 2 else scores[..., None]
    judged, named = scores[:, : critic.outputs], scores[:, critic.outputs :]
    score = judged[:, 0] if critic.outputs == 1 else judged[:, 1] - judged[:, 0]
    return score, named if critic.categories else None


def probed(grid: Tensor) -> Tensor:
    """A grid that scores can be differentiated by. No leaf: what counts FLOPs hooks into leaves that modules are given."""
    return grid.detach().requires_grad_(True) * 1.0


def gradient_of(scores: Tensor, grid: Tensor) -> Tensor:
    """The gradient of each clip's summed score in its grid, B x values, itself differentiable."""
    (gradient,) = torch.autograd.grad(scores.float().sum(), grid, create_graph=True)
    return gradient.flatten(1)
