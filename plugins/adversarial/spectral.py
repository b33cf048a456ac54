"""Layers of generators and discriminators that are held to a spectral norm of one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.facts import ConditioningFact
from mutoscope.core.values import Conditioning


class Held(nn.Module):
    """Weights with an orthogonal start, divided by their largest singular value in use.

    Miyato et al. 2018, alg. 1, arXiv:1802.05957; Brock et al. 2019, sec. 3, arXiv:1809.11096. The value is estimated by
    one step of power iteration, whose left vector is kept from use to use.
    """

    def __init__(self, shape: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        left = torch.randn(shape[0])
        self.register_buffer("left", left / left.norm())

    def held(self) -> Tensor:
        """The weights in use."""
        w = self.weight.flatten(1)
        with torch.no_grad():
            right = w.mT @ self.left.to(w.dtype)
            right = right / (right.norm() + 1e-12)
            left = w @ right
            left = left / (left.norm() + 1e-12)
            if self.training:
                self.left.copy_(left)
        return self.weight / (left @ (w @ right))


class HeldLinear(Held):
    """A linear layer."""

    def __init__(self, inputs: int, out: int, bias: bool = True) -> None:
        super().__init__((out, inputs), bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.held(), self.bias)


class HeldConv(Held):
    """A convolution that keeps the size. dims: 2 over rows and columns, 3 over frames too."""

    def __init__(self, channels: int, out: int, kernel: int = 3, dims: int = 2) -> None:
        super().__init__((out, channels, *[kernel] * dims), bias=True)
        self.pad = kernel // 2

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """weight: from `held`, where the layer is used many times over."""
        run = F.conv2d if self.weight.ndim == 4 else F.conv3d
        return run(x, self.held() if weight is None else weight, self.bias, padding=self.pad)


class Verdict(nn.Module):
    """A score of pooled features, linear, and projected on what the clip is told (Miyato & Koyama 2018, eq. 3)."""

    def __init__(self, given: ConditioningFact, width: int) -> None:
        super().__init__()
        self.score = HeldLinear(width, 1)
        self.told = HeldLinear(given.pooled, width, bias=False) if given.pooled else None

    def forward(self, features: Tensor, conditioning: Conditioning) -> Tensor:
        """B T width to B T."""
        scores = self.score(features)[..., 0]
        if self.told is not None and conditioning.pooled is not None:
            scores = scores + (features * self.told(conditioning.pooled)[:, None]).sum(-1)
        return scores
