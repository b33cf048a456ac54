"""Group normalisation, at any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation in 32 groups, in fewer where a group would have less than four channels or 32 do not divide.

    Networks of the papers' widths, 128 and more, get the papers' 32 (Wu & He 2018, arXiv:1803.08494). In a narrow one 32
    groups are channels each on its own: every map loses its mean, and with it the network the colour of a picture.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        most = max(1, min(32, channels // 4))
        super().__init__(next(g for g in range(most, 0, -1) if channels % g == 0), channels, eps)

    def forward(self, input: Tensor) -> Tensor:
        """The same whatever the batch: torch's module refuses one clip of one cell where a group is one channel."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
