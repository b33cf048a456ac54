"""The tower `lpips`."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.tower import Tower
from mutoscope.core.values import Features

WIDTHS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Width and convolutions of VGG-16's five levels (Simonyan & Zisserman 2015, table 1, D)."""
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the colours in [-1, 1], as the released network has them."""


@final
class Lpips(Tower):
    """Five levels of VGG-16, weighed per channel, each frame alone. Zhang et al. 2018, sec. 3, arXiv:1801.03924.

    pooled: such that the squared distance of two clips' vectors is the paper's perceptual distance, mean over frames.
    Without given weights it is VGG at random; `weights:` names a safetensors file with those of the paper. Frames are
    at least 16 x 16.
    """

    name = "lpips"
    paper = "Zhang et al. 2018, arXiv:1801.03924"

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.levels, before = nn.ModuleList(), 3
        for width, count in WIDTHS:
            level = nn.ModuleList(nn.Conv2d(before if i == 0 else width, width, 3, padding=1) for i in range(count))
            self.levels.append(level)
            before = width
        self.channels = nn.ParameterList(torch.ones(width) for width, _ in WIDTHS)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)

    def forward(self, video: Tensor) -> list[Tensor]:
        """The unit features of each level, weighed: (B T) D H' W'."""
        x = rearrange(video, "b c t h w -> (b t) c h w")
        x, seen = (x - self.mean) / self.deviation, []
        for i, level in enumerate(self.levels):
            if i:
                x = F.max_pool2d(x, 2)
            for conv in level:  # type: ignore[union-attr]
                x = F.relu(conv(x))
            weights = self.channels[i].clamp(min=0).sqrt().view(-1, 1, 1)
            seen.append(F.normalize(x, dim=1, eps=1e-10) * weights / (x.shape[2] * x.shape[3]) ** 0.5)
        return seen

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        frames = video.shape[2]
        seen = [rearrange(x, "(b t) d h w -> b (t d h w)", t=frames) for x in self(video)]
        return Features(pooled=torch.cat(seen, dim=1) / frames**0.5)
