"""The metric `flicker`: what does not move does not change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import numpy as np
import torch

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.plugins.world.drawing import REACH
from mutoscope.plugins.world.metrics.reading import asked, protocol, readings
from mutoscope.plugins.world.oracle import Reading

WORST = 1.0


@final
class Flicker(Metric):
    """Mean change from frame to frame of the ground around the things, as a share of full scale; lower is better.

    A pixel is ground while it is farther from every thing read than the thing reaches, with two pixels to spare, in
    both frames. A clip that cannot be read counts as 1.
    """

    name = "flicker"
    better: Literal["higher", "lower"] = "lower"  # pyright: ignore[reportIncompatibleVariableOverride]

    def score(self, material: Material) -> Iterable[Score]:
        asked(material)
        video = material.video.float().clamp(-1, 1)
        change = ((video[:, :, 1:] - video[:, :, :-1]).abs().mean(1) / 2).to(torch.float64).numpy()
        values = [_ground(c, r) if r.valid else WORST for c, r in zip(change, readings(material), strict=True)]
        return [Score(self.name, np.array(values))]

    def protocol(self) -> dict[str, object]:
        return protocol(self.name)


def _ground(change: np.ndarray, reading: Reading) -> float:
    """change: of each frame to the next, T-1 H W."""
    rows, columns = change.shape[1:]
    y, x = (np.mgrid[0:rows, 0:columns] + 0.5) / rows
    free = np.ones((reading.frames, rows, columns), bool)
    for track in reading.tracks:
        far = track.radius * max(REACH.values()) + 2 / rows
        for frame in np.flatnonzero(track.seen):
            free[frame] &= np.hypot(y - track.positions[frame, 0], x - track.positions[frame, 1]) > far
    both = free[1:] & free[:-1]
    return float(change[both].mean()) if both.any() else 0.0
