"""The discriminator `patch3d`: patches of space and time."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import FieldFact
from mutoscope.core.settings import Natural, Width
from mutoscope.core.values import Conditioning


@final
class Patch3d(Discriminator):
    """Says of every patch of a clip, in space and time, whether it is real. Blattmann et al. 2023, sec. 3.1.1.

    The patch discriminator of Isola et al. 2017 with kernels of three frames: strided in space, never in time. It does
    not look at the conditioning.

    width: of the first layer. depth: halvings; less than asked for where frames are too small.
    """

    name = "patch3d"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"
    mixes_batch = True
    tiny = {"width": 8, "depth": 1}  # noqa: RUF012

    def __init__(self, field: FieldFact, *, width: Width = 64, depth: Natural = 3) -> None:
        super().__init__()
        least = min(field.size)
        halvings = max(h for h in range(depth + 1) if h == 0 or least // 2**h >= 4)

        def conv(channels: int, out: int, stride: int, bias: bool = True) -> nn.Conv3d:
            made = nn.Conv3d(channels, out, (3, 4, 4), stride=(1, stride, stride), padding=1, bias=bias)
            nn.init.normal_(made.weight, std=0.02)
            return made

        layers: list[nn.Module] = [conv(field.channels, width, 2), nn.LeakyReLU(0.2)]
        now = width
        for i in range(1, halvings + 1):
            before, now = now, width * min(2**i, 8)
            norm = nn.BatchNorm3d(now)
            nn.init.normal_(norm.weight, 1.0, 0.02)
            layers += [conv(before, now, 2 if i < halvings else 1, bias=False), norm, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, conv(now, 1, 1))

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B (T H' W')."""
        return self.layers(grid).flatten(1)
