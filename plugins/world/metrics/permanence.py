"""The metric `permanence`: what passes behind a bar comes out on the other side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.plugins.world.metrics.reading import asked, protocol, readings
from mutoscope.plugins.world.oracle import Reading, Track
from mutoscope.plugins.world.state import Scene

MARKS = ("all", "returns", "timely", "same", "one")


@final
class Permanence(Metric):
    """Of the clips in which the first thing passes behind a bar, the share in which it lasts; none without such clips.

    returns: it is read on one side of the bar and later on the other. timely: it is back within a frame of when its
    speed before the bar says, and within a radius of its height. same: colour and shape are those asked for, before and
    after. one: never two of its colour at once. all: all of them. hidden: frames in which it is not seen between; the
    longer, the harder. The bar is the one that the clip shows; a clip without bar or thing counts as wrong.
    """

    name = "permanence"

    def score(self, material: Material) -> Iterable[Score]:
        rows = [
            _row(reading, scene)
            for reading, scene in zip(readings(material), asked(material), strict=True)
            if scene.event == "occlude" and scene.possible
        ]
        if not rows:
            return []
        return [Score(f"{self.name}.{name}", np.array([row[name] for row in rows])) for name in (*MARKS, "hidden")]

    def protocol(self) -> dict[str, object]:
        return protocol(self.name)


def _row(reading: Reading, scene: Scene) -> dict[str, float]:
    wrong = {**dict.fromkeys(MARKS, 0.0), "hidden": 0.0}
    thing = scene.things[0]
    mine = [track for track in reading.tracks if track.colour == thing.colour]
    if not reading.valid or reading.bar is None or not mine:
        return wrong
    track = mine[0]
    middle = sum(reading.bar) / 2
    side = np.where(track.seen, np.sign(track.positions[:, 1] - middle), 0.0)
    seen = np.flatnonzero(side)
    first = side[seen[0]]
    beyond = np.flatnonzero(side == -first)
    if not len(beyond):
        return wrong
    back = int(beyond[0])
    near = track.seen & (np.arange(reading.frames) < back)
    near_frames, far_frames = np.flatnonzero(near), np.flatnonzero(track.seen & ~near)
    shapes = {track.shape_within(near), track.shape_within(track.seen & ~near)} - {"none"}
    rivals = [t for t in mine[1:] if (t.seen & track.seen).any()]
    row = {
        "returns": 1.0,
        "timely": float(_timely(track, near_frames, far_frames, scene)),
        "same": float(shapes == {thing.shape}),
        "one": float(not rivals),
    }
    return {"all": float(all(row.values())), **row, "hidden": float(far_frames[0] - near_frames[-1] - 1)}


def _timely(track: Track, near: np.ndarray, far: np.ndarray, scene: Scene) -> bool:
    """Whether the way across fits the speed: that before the bar where four whole frames show it, else the true one.

    From the last whole frame before to the first one after it may take a frame more or less than it should; where a
    side shows it in part alone, also the time of half a radius, by which its centre may be misread.
    """
    before = near[track.whole[near]] if track.whole[near].any() else near
    after = far[track.whole[far]] if track.whole[far].any() else far
    start, end = before[-1], after[0]
    own = track.positions[before[-1], 1] - track.positions[before[0], 1]
    taken = before[-1] - before[0]
    if taken < 3:
        true = scene.things[0].positions[:, 1]
        own, taken = true[-1] - true[0], scene.frames - 1
    way = track.positions[end] - track.positions[start]
    if own == 0 or abs(way[0]) >= track.radius:
        return False
    pace = own / taken
    in_part = int(not track.whole[start]) + int(not track.whole[end])
    return bool(abs(way[1] / pace - (end - start)) <= 1.0 + in_part * 0.5 * track.radius / abs(pace))
