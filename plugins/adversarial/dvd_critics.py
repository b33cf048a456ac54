"""DVD-GAN's two discriminators: pictures at full size, and motion at half."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ConditioningFact, FieldFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Width
from mutoscope.core.values import Conditioning
from mutoscope.plugins.adversarial.patches import some_frames
from mutoscope.plugins.adversarial.spectral import HeldConv, Verdict


@final
class DvdSpatial(Discriminator):
    """Some frames of a clip, drawn at random, each judged as a picture; the score is their sum.

    Clark et al. 2019, sec. 3.2, arXiv:1907.06571: BigGAN's discriminator on eight frames at full size. It cannot tell
    their order.

    width: of a multiplier of one. multipliers: channels after every halving of the size. frames: how many are drawn.
    """

    name = "dvd_spatial"
    paper = "Clark et al. 2019, arXiv:1907.06571"
    tiny = {"width": 4, "multipliers": (1, 2), "frames": 2}  # noqa: RUF012

    def __init__(
        self,
        field: FieldFact,
        given: ConditioningFact,
        *,
        width: Width = 96,
        multipliers: tuple[Count, ...] = (1, 2, 4, 8, 16),
        frames: Count = 8,
    ) -> None:
        super().__init__()
        self.frames = min(frames, field.frames)
        widths = [field.channels, *(m * width for m in multipliers)]
        self.blocks = nn.ModuleList(
            Down(a, b, dims=2, first=i == 0) for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        )
        self.verdict = Verdict(given, widths[-1])

    def view(self, grid: Tensor, draw: Draw) -> Tensor:
        return some_frames(grid, self.frames, draw)

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B 1."""
        x = rearrange(grid, "b c t h w -> (b t) c h w")
        for block in self.blocks:
            x = block(x)
        features = F.relu(x).sum((2, 3)).unflatten(0, (len(grid), grid.shape[2]))
        return self.verdict(features, conditioning).sum(1, keepdim=True)


@final
class DvdTemporal(Discriminator):
    """A whole clip at half its size: two blocks over space and time, then frame by frame, features summed over time.

    Clark et al. 2019, sec. 3.2, arXiv:1907.06571. What an average over 2 x 2 cells does not show, it does not see.

    width, multipliers: as of `dvd_spatial`.
    """

    name = "dvd_temporal"
    paper = "Clark et al. 2019, arXiv:1907.06571"
    tiny = {"width": 4, "multipliers": (1, 2)}  # noqa: RUF012

    def __init__(
        self,
        field: FieldFact,
        given: ConditioningFact,
        *,
        width: Width = 96,
        multipliers: tuple[Count, ...] = (1, 2, 4, 8, 16),
    ) -> None:
        super().__init__()
        widths = [field.channels, *(m * width for m in multipliers)]
        self.blocks = nn.ModuleList(
            Down(a, b, dims=3 if i < 2 else 2, first=i == 0)
            for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        )
        self.verdict = Verdict(given, widths[-1])

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B 1."""
        x, frames = F.avg_pool3d(grid, (1, 2, 2)), grid.shape[2]
        for block in self.blocks[:2]:
            x = block(x)
        x = rearrange(x, "b c t h w -> (b t) c h w")
        for block in self.blocks[2:]:
            x = block(x)
        features = F.relu(x).sum((2, 3)).unflatten(0, (len(grid), frames)).sum(1, keepdim=True)
        return self.verdict(features, conditioning)


class Down(nn.Module):
    """BigGAN's residual block of a discriminator; rows and columns are halved while there are two. Brock et al. 2019,
    app. B. dims: 3 for convolutions over time too. first: the input is not rectified."""

    def __init__(self, channels: int, out: int, dims: int, first: bool) -> None:
        super().__init__()
        self.first, self.dims = first, dims
        self.conv1, self.conv2 = HeldConv(channels, out, dims=dims), HeldConv(out, out, dims=dims)
        self.skip = HeldConv(channels, out, 1, dims)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        return self._halved(h) + self._halved(self.skip(x))

    def _halved(self, x: Tensor) -> Tensor:
        by = tuple(2 if n > 1 else 1 for n in x.shape[-2:])
        return F.avg_pool2d(x, by) if self.dims == 2 else F.avg_pool3d(x, (1, *by))
