"""The discriminator `patch`."""

from __future__ import annotations

from typing import final

from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import FieldFact
from mutoscope.core.settings import Natural, Width
from mutoscope.core.values import Conditioning


@final
class Patch(Discriminator):
    """Says of every patch of every frame whether it is real. Isola et al. 2017, sec. 3.2.2, arXiv:1611.07004.

    Strided convolutions of 4 x 4 with batch norms between, as latent diffusion uses it; a score sees a patch of 70
    pixels at depth 3. It does not look at the conditioning.

    width: of the first layer. depth: halvings; less than asked for where frames are too small.
    """

    name = "patch"
    paper = "Isola et al. 2017, arXiv:1611.07004"
    mixes_batch = True
    tiny = {"width": 8, "depth": 1}  # noqa: RUF012

    def __init__(self, field: FieldFact, *, width: Width = 64, depth: Natural = 3) -> None:
        super().__init__()
        least = min(field.size)
        halvings = max(h for h in range(depth + 1) if h == 0 or least // 2**h >= 4)
        layers: list[nn.Module] = [nn.Conv2d(field.channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        now = width
        for i in range(1, halvings + 1):
            before, now = now, width * min(2**i, 8)
            stride = 2 if i < halvings else 1
            layers += [nn.Conv2d(before, now, 4, stride, 1, bias=False), nn.BatchNorm2d(now), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(now, 1, 4, 1, 1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B (T H' W')."""
        scores = self.layers(rearrange(grid, "b c t h w -> (b t) c h w"))
        return rearrange(scores, "(b t) 1 h w -> b (t h w)", b=len(grid))
