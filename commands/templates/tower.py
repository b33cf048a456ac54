"""The tower `my_part`: features of video by convolution. A start to change."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.facts import ClipFact
from mutoscope.core.settings import Width
from mutoscope.core.tower import Tower
from mutoscope.core.values import Features


@final
class MyPart(Tower):
    """Two layers of space-time convolution; a feature per cell, their mean, and logits where the data has classes.

    width: of the features.
    """

    name = "my_part"
    tiny: ClassVar[dict[str, Any]] = {"width": 8}

    def __init__(self, clip: ClipFact, *, width: Width = 64) -> None:
        super().__init__()
        self.first = nn.Conv3d(clip.channels, width, 3, (1, 2, 2), 1)
        self.second = nn.Conv3d(width, width, 3, (1, 2, 2), 1)
        self.classes = nn.Linear(width, clip.classes) if clip.classes else None

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        """level: makes no difference."""
        cells = self.second(F.silu(self.first(video))).flatten(2).mT
        pooled = cells.mean(dim=1)
        return Features(cells, pooled, self.classes(pooled) if self.classes is not None else None)


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
