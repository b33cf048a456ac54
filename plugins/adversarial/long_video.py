"""The `long_video` discriminator: a long clip, over space and time in turn."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ConditioningFact, FieldFact
from mutoscope.core.settings import Natural, Width
from mutoscope.core.values import Conditioning
from mutoscope.plugins.adversarial.equalised import EqualConv, EqualLinear, bent

GROUP = 4
"""Clips among which variety is measured."""
VARIETIES = 2
"""Features of variety that are shown to the last convolution."""


@final
class LongVideo(Discriminator):
    """Residual blocks of a convolution over space and one over time, then one judgement of the whole.

    Brooks et al. 2022, sec. 3.2 and app. B, arXiv:2206.03429; the end is StyleGAN2's, with the deviation among clips of
    a group as further features (Karras et al. 2018, sec. 3).

    widths: channels at first and after each block, which halves space. time_halvings: blocks, the first ones, that halve
    time too. hidden: of the last layer.
    """

    name = "long_video"
    paper = "Brooks et al. 2022, arXiv:2206.03429"
    tiny = {"widths": (4, 8), "hidden": 8}  # noqa: RUF012
    mixes_batch = True

    def __init__(
        self,
        field: FieldFact,
        given: ConditioningFact,
        *,
        widths: tuple[Width, ...] = (32, 64, 128, 256, 512, 512),
        time_halvings: Natural = 3,
        hidden: Width = 1024,
    ) -> None:
        super().__init__()
        self.first = EqualConv(field.channels, widths[0], (1, 1, 1))
        left, blocks = [field.frames, *field.size], []
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            by = (2 if i < time_halvings else 1, 2, 2)
            blocks.append(Down(a, b, by))
            left = [-(-n // k) for n, k in zip(left, by, strict=True)]
        self.blocks = nn.ModuleList(blocks)
        # How the last layers are split is not published; without this bias all add up to the released count.
        self.last = EqualConv(widths[-1] + VARIETIES, widths[-1], (3, 3, 3), bias=False)
        self.judge = EqualLinear(widths[-1] * math.prod(left), hidden)
        self.score = EqualLinear(hidden, 1)
        self.told = EqualLinear(given.pooled, hidden) if given.pooled else None

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B 1."""
        x = bent(self.first(grid))
        for block in self.blocks:
            x = block(x)
        x = bent(self.last(with_variety(x)))
        x = bent(self.judge(x.flatten(1)))
        scores = self.score(x)
        if self.told is not None and conditioning.pooled is not None:
            scores = scores + (x * self.told(conditioning.pooled)).sum(1, keepdim=True) / math.sqrt(x.shape[1])
        return scores


class Down(nn.Module):
    """A convolution over space, averaging, one over time, beside a linear way. by: what the size is divided by."""

    def __init__(self, channels: int, out: int, by: tuple[int, int, int]) -> None:
        super().__init__()
        self.by = by
        self.space = EqualConv(channels, channels, (1, 3, 3))
        self.time = EqualConv(channels, out, (5, 1, 1))
        self.around = EqualConv(channels, out, (1, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = bent(self.time(self._less(bent(self.space(x)))))
        return (h + self.around(self._less(x))) * math.sqrt(0.5)

    def _less(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(x, self.by, ceil_mode=True)


def with_variety(x: Tensor) -> Tensor:
    """B C T H W with the mean deviation of each half of its channels among the clips of a group, everywhere alike."""
    b, _c = x.shape[:2]
    group = next(n for n in range(min(GROUP, b), 0, -1) if b % n == 0)
    apart = x.unflatten(0, (group, b // group))
    apart = apart - apart.mean(0)
    deviation = (apart.square().mean(0) + 1e-8).sqrt()
    halves = torch.stack([half.flatten(1).mean(1) for half in deviation.tensor_split(VARIETIES, dim=1)], dim=1)
    shown = halves.repeat(group, 1)[..., None, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, shown], dim=1)
