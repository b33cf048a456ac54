"""The metric `my_part`: how much changes from frame to frame. A start to change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import numpy as np
from torch import Tensor

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.metric import Material, Metric, Score


@final
class MyPart(Metric):
    """Of each clip, how far its change from frame to frame is from that of the real clip with the same caption."""

    name = "my_part"
    better: Literal["higher", "lower"] = "lower"

    def score(self, material: Material) -> Iterable[Score]:
        real = material.real.video
        assert isinstance(real, Tensor)
        yield Score("my_part.change", clips=np.abs(_change(material.video) - _change(real)))


def _change(video: Tensor) -> np.ndarray:
    """Mean absolute change of a pixel between frames, of its whole range: B numbers."""
    if video.shape[2] < 2:
        return np.zeros(len(video))
    return video.diff(dim=2).abs().mean(dim=(1, 2, 3, 4)).double().numpy() / 2


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
