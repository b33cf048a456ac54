"""The metric `framing`: things are wholly in view where they should be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.plugins.world.metrics.reading import asked, matched, protocol, readings
from mutoscope.plugins.world.oracle import Track
from mutoscope.plugins.world.state import Scene, Thing

ENOUGH = 0.95
"""Share of frames in which a thing must be in view, of those in which it should be."""
SLACK = 0.5
"""Pixels that a disc may reach over the edge: reading errors, and discs that touch a wall."""


@final
class Framing(Metric):
    """Share of clips in which the disc of every thing is in view in at least 95% of the frames where it should be.

    It should be where the true disc is in view and not hidden. A clip that cannot be read counts as wrong.
    """

    name = "framing"

    def score(self, material: Material) -> Iterable[Score]:
        rows = [
            reading.valid
            and all(_framed(t, o, scene) for t, o in zip(matched(reading, scene), scene.things, strict=True))
            for reading, scene in zip(readings(material), asked(material), strict=True)
        ]
        return [Score(self.name, np.array(rows, dtype=np.float64))]

    def protocol(self) -> dict[str, object]:
        return {**protocol(self.name), "enough": ENOUGH, "slack": SLACK}


def _framed(track: Track | None, thing: Thing, scene: Scene) -> bool:
    wanted = thing.seen & _inside(thing.positions, thing.radius, scene)
    if scene.bar is not None:
        x = thing.positions[:, 1]
        wanted &= (x + thing.radius < scene.bar[0]) | (x - thing.radius > scene.bar[1])
    if not wanted.any():
        return True
    if track is None:
        return False
    shown = track.seen & _inside(np.nan_to_num(track.positions, nan=-1.0), track.radius, scene)
    return int(shown.sum()) >= ENOUGH * int(wanted.sum())


def _inside(positions: np.ndarray, radius: float, scene: Scene) -> np.ndarray:
    """Frames in which a disc is in view, T booleans."""
    edge = radius - SLACK / scene.size[0]
    box = np.array([1.0, scene.size[1] / scene.size[0]])
    return ((positions >= edge) & (positions <= box - edge)).all(1)
