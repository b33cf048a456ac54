"""The metric `identity`: a thing stays what it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import numpy as np

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.plugins.world.metrics.reading import asked, counted, matched, protocol, readings
from mutoscope.plugins.world.oracle import Reading, Track
from mutoscope.plugins.world.state import Scene, Thing

WORST = {"kept": 0.0, "radius": 1.0, "whole": 0.0, "count": 0.0}


@final
class Identity(Metric):
    """How far the things of a clip keep colour, shape, size and number.

    kept: share of the frames in which a thing should be seen in which it is, in one colour and in the shape that it has
    in most of them; frames behind a bar are left out. radius: coefficient of variation of its radius, lower is
    better, worst 1. whole: share of clips in which no thing splits, merges or is lost on the way. count: share of
    frames with as many things as were asked for, or fewer where a bar may hide one. A clip that cannot be read counts
    as the worst. With several things the mean over those asked for.
    """

    name = "identity"

    def score(self, material: Material) -> Iterable[Score]:
        rows = [_row(r, s) if r.valid else WORST for r, s in zip(readings(material), asked(material), strict=True)]
        return [Score(f"{self.name}.{name}", np.array([row[name] for row in rows], dtype=np.float64)) for name in WORST]

    def better_of(self, score: str) -> Literal["higher", "lower"]:
        return "lower" if score.endswith(".radius") else "higher"

    def protocol(self) -> dict[str, object]:
        return {**protocol(self.name), "worst": WORST}


def _row(reading: Reading, scene: Scene) -> dict[str, float]:
    found = matched(reading, scene)
    things = counted(reading, scene)
    number = np.sum([track.seen for track in things], axis=0) if things else np.zeros(reading.frames, int)
    wanted = np.sum([_expected(thing.seen, scene) for thing in scene.things], axis=0)
    fewer = scene.bar is not None or scene.law == "orbit"
    pairs = zip(found, scene.things, strict=True)
    kept = [_kept(track, thing, reading, scene) if track else (0.0, False) for track, thing in pairs]
    return {
        "kept": float(np.mean([share for share, _ in kept])),
        "radius": float(np.mean([_variation(track) if track else WORST["radius"] for track in found])),
        "whole": float(all(unbroken for _, unbroken in kept) and number.max(initial=0) <= len(scene.things)),
        "count": float(np.mean((number <= wanted) if fewer else (number == wanted))),
    }


def _expected(seen: np.ndarray, scene: Scene) -> np.ndarray:
    """Frames in which a thing may be counted; behind a bar, all."""
    return np.ones_like(seen) if scene.bar is not None else seen


def _kept(track: Track, thing: Thing, reading: Reading, scene: Scene) -> tuple[float, bool]:
    """Share of the frames in which a thing should be seen in which its track is, in one shape; whether none is missing.

    Where an event lets it come or go when it likes, it should be seen from its first frame to its last.
    """
    at = np.flatnonzero(track.seen)
    between = np.zeros(reading.frames, bool)
    between[at[0] : at[-1] + 1] = True
    free = scene.event in ("appear", "leave")
    wanted = int(between.sum() if free else max(thing.seen.sum(), 1))
    names = list(track.overlaps)
    each = np.stack([track.overlaps[name] for name in names])
    told = np.isfinite(each[0])
    shape = np.array(names)[np.where(told, each, 0).argmax(0)]
    right = track.seen & (~told | (shape == track.shape))
    gapless = scene.bar is not None or bool(track.seen[between].all())
    # One frame may be missing: a thing half out of view is hardly seen.
    return min(1.0, float(right.sum() / wanted)), gapless and int(track.seen.sum()) >= wanted - 1


def _variation(track: Track) -> float:
    at = track.whole if track.whole.sum() >= 2 else track.seen
    radii = np.sqrt(track.areas[at] / np.pi)
    return min(float(radii.std() / radii.mean()), WORST["radius"]) if len(radii) else WORST["radius"]
