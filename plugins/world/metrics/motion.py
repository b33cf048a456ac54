"""The metric `motion`: does a clip keep the law that it should?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import numpy as np

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.plugins.world.drawing import REACH
from mutoscope.plugins.world.metrics import paths
from mutoscope.plugins.world.metrics.reading import asked, matched, motion, protocol, readings
from mutoscope.plugins.world.oracle import SLOW, Track
from mutoscope.plugins.world.state import DIRECTIONS, Scene, Thing

WORST = {"velocity": 2.0, "residual": 0.5, "reflection": 1.0, "momentum": 1.0, "energy": 1.0, "restitution": 1.0}
"""What a clip that cannot be read gets; no clip gets more."""


@final
class Motion(Metric):
    """Errors of motion, from 0; a clip that cannot be read counts as the worst, and none counts as more than that.

    velocity: |v - v'| over v, v the velocity asked for (of the slow class for what stands still), worst 2 as for a clip
    that runs backwards. residual: root mean square distance, in frame heights, from the best path that the clip's law
    allows, worst 1/2; not for `grid` and `agent`, whose paths follow actions. reflection: of a `bounce`, the velocity
    after the wall against the mirrored one before, over its size; worst 1, as without a bounce. momentum, energy: of a
    `collide`, what changed over what there was, mass being area; restitution: how far the speed of parting is from that
    of approach. Worst 1. With several things the mean over them. The camera's velocity is taken off.
    """

    name = "motion"
    better: Literal["higher", "lower"] = "lower"  # pyright: ignore[reportIncompatibleVariableOverride]

    def score(self, material: Material) -> Iterable[Score]:
        rows: dict[str, list[float]] = {}
        for reading, scene in zip(readings(material), asked(material), strict=True):
            found = matched(reading, scene) if reading.valid else [None] * len(scene.things)
            for name, value in _errors(found, scene).items():
                rows.setdefault(name, []).append(min(value, WORST[name]) if np.isfinite(value) else WORST[name])
        return [Score(f"{self.name}.{name}", np.array(rows[name])) for name in WORST if name in rows]

    def protocol(self) -> dict[str, object]:
        return {**protocol(self.name), "worst": WORST}


def _errors(found: list[Track | None], scene: Scene) -> dict[str, float]:
    """Every error that the law of a scene has; nan or too much where it cannot be read."""
    pairs = list(zip(found, scene.things, strict=True))
    errors = {"velocity": float(np.mean([_velocity(track, thing, scene) for track, thing in pairs]))}
    if scene.law in ("grid", "agent"):
        return errors
    if scene.law == "collide":
        return errors | _collision(found, scene)
    if scene.law == "orbit":
        if any(track is None or track.seen.sum() < 4 for track in found):
            return errors | {"residual": np.nan}
        cut = [_places(track, scene) for track in found if track is not None]
        return errors | {"residual": _rms(np.concatenate(paths.turning([t for t, _ in cut], [p for _, p in cut])))}
    errors["residual"] = float(np.mean([_residual(track, thing, scene) for track, thing in pairs]))
    if scene.law == "bounce":
        errors["reflection"] = float(np.mean([_reflection(track, thing, scene) for track, thing in pairs]))
    return errors


def _velocity(track: Track | None, thing: Thing, scene: Scene) -> float:
    """Of the line through the true path at the same frames."""
    if track is None or not np.isfinite(track.velocity).all():
        return WORST["velocity"]
    at = np.flatnonzero(track.whole if track.whole.sum() >= 2 else track.seen)
    few = max(2, -(-len(at) // 3))
    slopes = [np.polyfit(some / scene.fps, thing.positions[some], 1)[0] for some in (at, at[:few])]
    truth = Track(thing.colour, track.positions, track.areas, track.whole, velocity=slopes[0], first=slopes[1])
    wanted = motion(truth, scene)
    size = float(np.linalg.norm(wanted))
    return min(float(np.linalg.norm(motion(track, scene) - wanted)) / max(size, SLOW), WORST["velocity"])


def _residual(track: Track | None, thing: Thing, scene: Scene) -> float:
    if track is None or track.seen.sum() < 3:
        return WORST["residual"]
    times, places = _places(track, scene)
    match scene.law:
        case "still":
            off = paths.straight(times, places, 0)
        case "fall" | "parabola":
            floor = 1 - track.radius * REACH[thing.shape] - 0.5 / scene.size[0]
            off = paths.thrown(times, places, scene.gravity, int(scene.law == "parabola"), floor)
        case "bounce":
            axis = _axis(thing)
            times, places = _places(track, scene, paths.once(scene, thing.positions, axis))
            off = paths.reflected(times, places, axis) if len(times) >= 2 else np.array([WORST["residual"]])
        case _:
            off = paths.straight(times, places)
    return min(_rms(off), WORST["residual"])


def _reflection(track: Track | None, thing: Thing, scene: Scene) -> float:
    if track is None:
        return WORST["reflection"]
    axis = _axis(thing)
    times, places = _places(track, scene, paths.once(scene, thing.positions, axis))
    path = paths.broken(times, places)
    if path is None or abs(path.before[axis]) < SLOW / 2:
        return WORST["reflection"]
    mirrored = path.before * np.where(np.arange(2) == axis, -1.0, 1.0)
    return min(float(np.linalg.norm(path.after - mirrored) / np.linalg.norm(path.before)), WORST["reflection"])


def _collision(found: list[Track | None], scene: Scene) -> dict[str, float]:
    names = ("residual", "momentum", "energy", "restitution")
    tracks = [track for track in found if track is not None and track.seen.sum() >= 5]
    if len(tracks) < len(found):
        return dict.fromkeys(names, np.nan)
    cut = [_places(track, scene) for track in tracks]
    parts = paths.met([t for t, _ in cut], [p for _, p in cut])
    if parts is None:
        return dict.fromkeys(names, np.nan)
    mass = np.array([track.radius**2 for track in tracks])[:, None]
    before, after = np.stack([p.before for p in parts]), np.stack([p.after for p in parts])
    approach, parting = before[1] - before[0], after[1] - after[0]
    energy = (mass * before**2).sum()
    momentum = (mass * np.linalg.norm(before, axis=1, keepdims=True)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "residual": _rms(np.concatenate([part.off for part in parts])),
            "momentum": float(np.linalg.norm((mass * (after - before)).sum(0)) / momentum),
            "energy": float(abs((mass * after**2).sum() - energy) / energy),
            "restitution": float(np.linalg.norm(parting + approach) / np.linalg.norm(approach)),
        }


def _places(track: Track, scene: Scene, within: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Times and places of the frames in which a track is whole, or seen where it hardly ever is; without the camera."""
    chosen = track.whole if track.whole.sum() >= 2 else track.seen
    at = np.flatnonzero(chosen if within is None else chosen & within)
    times = at / scene.fps
    return times, track.positions[at] + np.array(scene.camera) * times[:, None]


def _axis(thing: Thing) -> int:
    return int(np.abs(DIRECTIONS[thing.direction]).argmax())


def _rms(off: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(off))))
