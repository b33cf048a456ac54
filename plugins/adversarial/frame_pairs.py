"""The `frame_pairs` discriminator: a few sharp frames beside the blurred ones that they were made from."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ConditioningFact, FieldFact
from mutoscope.core.settings import Count, Share, Width
from mutoscope.core.values import Conditioning
from mutoscope.plugins.adversarial.equalised import EqualConv, EqualLinear, bent


@final
class FramePairs(Discriminator):
    """Runs of frames as the channels of one picture, with the low-resolution frames as further channels.

    Brooks et al. 2022, sec. 3.3, arXiv:2206.03429: StyleGAN2's residual discriminator on four frames and their four
    low-resolution ones, without the deviation among clips. In training the latter are blanked for most clips, so that
    the picture itself is judged. The low-resolution frames are the conditioning's cells; without any it sees the frames.

    widths: channels at first and after each halving of the size. frames: of a run. blank: share of runs in training
    whose low-resolution frames are blanked.
    """

    name = "frame_pairs"
    paper = "Brooks et al. 2022, arXiv:2206.03429"
    tiny = {"widths": (4, 8), "frames": 2}  # noqa: RUF012

    def __init__(
        self,
        field: FieldFact,
        given: ConditioningFact,
        *,
        widths: tuple[Width, ...] = (128, 256, 512, 512, 512, 512),
        frames: Count = 4,
        blank: Share = 0.9,
    ) -> None:
        super().__init__()
        self.frames, self.blank, self.cells = min(frames, field.frames), blank, given.cells
        self.first = EqualConv((field.channels + given.cells) * self.frames, widths[0], (1, 1, 1))
        left, blocks = list(field.size), []
        for a, b in zip(widths, widths[1:], strict=False):
            blocks.append(Down(a, b))
            left = [-(-n // 2) for n in left]
        self.blocks = nn.ModuleList(blocks)
        self.last = EqualConv(widths[-1], widths[-1], (1, 3, 3))
        self.judge = EqualLinear(widths[-1] * left[0] * left[1], widths[-1])
        self.score = EqualLinear(widths[-1], 1)
        self.told = EqualLinear(given.pooled, widths[-1]) if given.pooled else None

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B x runs; frames that do not fill a run are left out."""
        b, runs = len(grid), grid.shape[2] // self.frames
        seen = self._in_runs(grid, runs)
        if self.cells:
            low = conditioning.cells
            low = (
                seen.new_zeros(b * runs, self.cells * self.frames, 1, *seen.shape[3:])
                if low is None
                else self._low(low, runs)
            )
            seen = torch.cat([seen, low.to(seen.dtype)], dim=1)
        x = bent(self.first(seen))
        for block in self.blocks:
            x = block(x)
        x = bent(self.judge(bent(self.last(x)).flatten(1)))
        scores = self.score(x)
        if self.told is not None and conditioning.pooled is not None:
            told = self.told(conditioning.pooled).repeat_interleave(runs, dim=0)
            scores = scores + (x * told).sum(1, keepdim=True) / math.sqrt(x.shape[1])
        return scores.view(b, runs)

    def _in_runs(self, grid: Tensor, runs: int) -> Tensor:
        return rearrange(grid[:, :, : runs * self.frames], "b c (r k) h w -> (b r) (k c) 1 h w", k=self.frames)

    def _low(self, low: Tensor, runs: int) -> Tensor:
        """The low-resolution frames of each run, most of them blanked in training."""
        seen = self._in_runs(low, runs)
        if not self.training or self.blank == 0:
            return seen
        # As dropout layers draw: from torch's generator, which every step seeds anew.
        return seen * (torch.rand(len(seen), 1, 1, 1, 1, device=seen.device) >= self.blank)


class Down(nn.Module):
    """StyleGAN2's residual block of a discriminator: two convolutions, halved, beside a linear way."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv0 = EqualConv(channels, channels, (1, 3, 3))
        self.conv1 = EqualConv(channels, out, (1, 3, 3))
        self.around = EqualConv(channels, out, (1, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = bent(self.conv1(F.avg_pool3d(bent(self.conv0(x)), (1, 2, 2), ceil_mode=True)))
        return (h + self.around(F.avg_pool3d(x, (1, 2, 2), ceil_mode=True))) * math.sqrt(0.5)
