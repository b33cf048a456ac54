"""The discriminator `my_part`: judges patches of space and time. A start to change."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ConditioningFact, FieldFact
from mutoscope.core.settings import Count, Width
from mutoscope.core.values import Conditioning


@final
class MyPart(Discriminator):
    """Convolutions over space and time, a score per patch; the pooled conditioning is projected onto the features.

    width: channels of the first layer, doubled by every further one. depth: layers that halve the picture.
    """

    name = "my_part"
    tiny: ClassVar[dict[str, Any]] = {"width": 8, "depth": 2}

    def __init__(
        self, field: FieldFact, given: ConditioningFact | None = None, *, width: Width = 32, depth: Count = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = field.channels
        for i in range(depth):
            layers += [nn.Conv3d(channels, width << i, 3, (1, 2, 2), 1), nn.LeakyReLU(0.2)]
            channels = width << i
        self.layers = nn.Sequential(*layers)
        self.score = nn.Conv3d(channels, 1, 1)
        self.told = nn.Linear(given.pooled, channels) if given is not None and given.pooled else None

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """Scores of B C T H W, B 1 T H' W'."""
        features = self.layers(grid)
        scores = self.score(features)
        if self.told is None or conditioning.pooled is None:
            return scores
        agreement = torch.einsum("bcthw,bc->bthw", features, self.told(conditioning.pooled))
        return scores + agreement[:, None] / features.shape[1] ** 0.5


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
