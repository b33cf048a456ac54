"""Convolution over space and time that never looks ahead in time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv3d(nn.Module):
    """A 3-D convolution whose output at a frame depends on that frame and earlier ones.

    Time is padded in front with copies of the first frame, space with zeros on both sides, so that an image is coded as
    a still video would be. kernel: frames, rows, columns, the last two odd.
    """

    def __init__(self, channels: int, out: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        super().__init__()
        self.before = kernel[0] - 1
        self.conv = nn.Conv3d(channels, out, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W to B out T H W."""
        if self.before and x.shape[2] == 1 and self.conv.kernel_size[0] > 1:
            return self._still(x)
        if self.before:
            x = torch.cat([x[:, :, :1].expand(-1, -1, self.before, -1, -1), x], dim=2)
        return self.conv(x)

    def _still(self, x: Tensor) -> Tensor:
        """One frame: all taps of time see the same frame, so their sum is a 2-D kernel."""
        pad = self.conv.padding
        plane = F.conv2d(x[:, :, 0], self.conv.weight.sum(2), self.conv.bias, padding=(int(pad[1]), int(pad[2])))
        return plane[:, :, None]
