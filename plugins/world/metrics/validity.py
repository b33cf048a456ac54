"""The metric `validity`: can a clip be read at all?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.plugins.world.metrics.reading import asked, protocol, readings


@final
class Validity(Metric):
    """Share of clips in which the oracle finds something of the world: one thing at least, and no swarm."""

    name = "validity"

    def score(self, material: Material) -> Iterable[Score]:
        asked(material)
        return [Score(self.name, np.array([reading.valid for reading in readings(material)], dtype=np.float64))]

    def protocol(self) -> dict[str, object]:
        return protocol(self.name)
