"""Layers of generators and discriminators that are held to a spectral norm of one."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mutoscope.core.facts import ConditioningFact
from mutoscope.core.values import Conditioning

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.Conv3d)


def held(layer: Layer) -> Layer:
    """A layer with an orthogonal start and a spectral norm of one. Miyato et al. 2018, arXiv:1802.05957; Brock et al.
    2019, sec. 3."""
    nn.init.orthogonal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer)


def conv(channels: int, out: int, kernel: int = 3, dims: int = 2) -> nn.Conv2d | nn.Conv3d:
    """A convolution that keeps the size."""
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    return held(kind(channels, out, kernel, padding=kernel // 2))


class Verdict(nn.Module):
    """A score of pooled features, linear, and projected on what the clip is told (Miyato & Koyama 2018, eq. 3)."""

    def __init__(self, given: ConditioningFact, width: int) -> None:
        super().__init__()
        self.score = held(nn.Linear(width, 1))
        self.told = held(nn.Linear(given.pooled, width, bias=False)) if given.pooled else None

    def forward(self, features: Tensor, conditioning: Conditioning) -> Tensor:
        """B T width to B T."""
        scores = self.score(features)[..., 0]
        if self.told is not None and conditioning.pooled is not None:
            scores = scores + (features * self.told(conditioning.pooled)[:, None]).sum(-1)
        return scores
