"""The `conv3d` discriminator: a video as one volume."""

from __future__ import annotations

from typing import Literal, final

from torch import Tensor, nn

from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ClipFact, ConditioningFact, FieldFact
from mutoscope.core.settings import Depth, Width
from mutoscope.core.values import Conditioning
from mutoscope.plugins.adversarial.projection import Projection


@final
class Conv3d(Discriminator):
    """Convolutions of 4 x 4 x 4 that halve time and space, then one over all that is left.

    The discriminator of Vondrick et al. 2016, sec. 3.3, arXiv:1609.02612: widths double, LeakyReLU .2, batch
    normalisation after all but the first. An axis that has come down to one cell is halved no further.

    width: of the first convolution. depth: how many. outputs: scores, 2 for the paper's softmax. classes: also name
    the data's class. normalised: batch normalisation; a gradient penalty wants none.
    """

    name = "conv3d"
    paper = "Vondrick et al. 2016, arXiv:1609.02612"
    tiny = {"width": 8, "depth": 2}  # noqa: RUF012
    mixes_batch = True

    def __init__(
        self,
        field: FieldFact,
        given: ConditioningFact,
        clip: ClipFact,
        *,
        width: Width = 64,
        depth: Depth = 4,
        outputs: Literal[1, 2] = 1,
        classes: bool = False,
        normalised: bool = True,
    ) -> None:
        super().__init__()
        if classes and not clip.classes:
            raise ValueError("classes: the data has no class labels")
        self.outputs, self.categories = outputs, clip.classes if classes else 0
        layers: list[nn.Module] = []
        channels, left = field.channels, [field.frames, *field.size]
        for i in range(depth):
            out = width * 2**i
            halved = [n > 1 for n in left]
            kernel, stride, padding = (tuple(a if h else b for h in halved) for a, b in ((4, 1), (2, 1), (1, 0)))
            layers.append(nn.Conv3d(channels, out, kernel, stride, padding))
            if normalised and i:
                layers.append(nn.BatchNorm3d(out))
            layers.append(nn.LeakyReLU(0.2))
            channels, left = out, [n // 2 if h else n for n, h in zip(left, halved, strict=True)]
        self.features = nn.Sequential(*layers)
        self.out = nn.Conv3d(channels, outputs + self.categories, tuple(left))
        self.match = Projection(given, channels)
        initialise(self)

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B x outputs and categories x 1 1 1."""
        features = self.features(grid)
        return self.match(self.out(features), features, conditioning, self.outputs - 1)


def initialise(module: nn.Module, std: float = 0.01) -> None:
    """Convolutions N(0, std), gains of batch normalisation N(1, .02), biases zero: the paper's code."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)
