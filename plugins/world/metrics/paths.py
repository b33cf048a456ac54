"""Laws of motion fitted to what was read: each gives the distances of the positions from the best path of the law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mutoscope.plugins.world.state import Scene

TRIED = 13
"""Moments tried at once for a bounce or a collision; the best one's neighbourhood is tried again."""
TURNS = np.linspace(0.6, 2.6, 81)
"""Radians per second tried for a turning camera."""


@dataclass(frozen=True)
class Broken:
    """A path of two straight parts. before, after: velocities (y, x); off: distances of the positions, T; moment: of
    the break, in seconds."""

    before: np.ndarray
    after: np.ndarray
    off: np.ndarray
    moment: float


def straight(times: np.ndarray, places: np.ndarray, degree: int = 1) -> np.ndarray:
    """Distances of places, T 2, from their best polynomial of a degree."""
    powers = np.vander(times, degree + 1)
    return _off(powers, places)


def thrown(times: np.ndarray, places: np.ndarray, gravity: float, degree: int, floor: float) -> np.ndarray:
    """Distances from free flight under gravity, level at constant speed; on the floor, from its height.

    degree: of the flight's own upright motion, 0 for what is dropped from rest.
    """
    flying = places[:, 0] < floor
    if flying.sum() <= degree + 1:
        return straight(times, places)
    drop = 0.5 * gravity * times**2
    powers, across = np.vander(times, degree + 1), np.vander(times, 2)
    upright = np.linalg.lstsq(powers[flying], (places[:, 0] - drop)[flying], rcond=None)[0]
    level = np.linalg.lstsq(across, places[:, 1], rcond=None)[0]
    ground = np.median(places[~flying, 0]) if not flying.all() else floor
    off = np.where(flying, places[:, 0] - drop - powers @ upright, places[:, 0] - ground)
    return np.hypot(off, places[:, 1] - across @ level)


def reflected(times: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Distances from a path that is straight, but turns round once along an axis as at an elastic wall."""

    def off(moment: float) -> np.ndarray:
        return _off(np.stack([np.ones_like(times), np.abs(times - moment)], axis=1), places[:, axis, None])

    turned, plain = off(_best_moment(times, lambda at: _square(off(at)))), straight(times, places[:, axis, None])
    level = places[:, 1 - axis] - places[:, 1 - axis].mean()
    return np.hypot(min(turned, plain, key=_square), level)


def broken(times: np.ndarray, places: np.ndarray, moment: float | None = None) -> Broken | None:
    """The best path of two straight parts that meet; at a given moment, or at the best. None under five places."""
    if len(times) < 5:
        return None
    if moment is None:
        moment = _best_moment(times, lambda at: _square(_two_parts(times, places, at).off))
    return _two_parts(times, places, moment)


def met(times: list[np.ndarray], places: list[np.ndarray]) -> list[Broken] | None:
    """As `broken`, for things that break at one moment."""
    if min(map(len, times)) < 5:
        return None

    def parts(moment: float) -> list[Broken]:
        return [_two_parts(t, p, moment) for t, p in zip(times, places, strict=True)]

    return parts(_best_moment(np.concatenate(times), lambda at: sum(_square(part.off) for part in parts(at))))


def turning(times: list[np.ndarray], places: list[np.ndarray]) -> list[np.ndarray]:
    """Distances of landmarks from the paths that one turning camera gives them: level, and a wave across."""
    best: list[np.ndarray] = []
    for turn in TURNS:
        offs = []
        for t, p in zip(times, places, strict=True):
            wave = _off(np.stack([np.ones_like(t), np.cos(turn * t), np.sin(turn * t)], axis=1), p[:, 1, None])
            offs.append(np.hypot(wave, p[:, 0] - p[:, 0].mean()))
        if not best or sum(np.square(o).sum() for o in offs) < sum(np.square(o).sum() for o in best):
            best = offs
    return best


def once(scene: Scene, path: np.ndarray, axis: int) -> np.ndarray:
    """Frames, T booleans, until a true path turns round for the second time."""
    signs = np.sign(np.diff(path[:, axis]))
    turns = np.flatnonzero(signs[1:] * signs[:-1] < 0)
    return np.arange(scene.frames) <= (turns[1] if len(turns) > 1 else scene.frames)


def _two_parts(times: np.ndarray, places: np.ndarray, moment: float) -> Broken:
    basis = np.stack([np.ones_like(times), times, np.maximum(times - moment, 0)], axis=1)
    fitted = np.linalg.lstsq(basis, places, rcond=None)[0]
    off = np.linalg.norm(places - basis @ fitted, axis=1)
    return Broken(fitted[1], fitted[1] + fitted[2], off, moment)


def _best_moment(times: np.ndarray, error: Callable[[float], float]) -> float:
    """The moment of least error, with two places on each side where there are so many: coarsely, then finely."""
    ordered = np.unique(times)
    if len(ordered) < 5:
        return float(ordered[len(ordered) // 2])
    low, high = float(ordered[1]), float(ordered[-2])
    for _ in range(3):
        tried = np.linspace(low, high, TRIED)
        best = float(min(tried, key=error))
        step = (high - low) / (TRIED - 1)
        low, high = max(best - step, float(ordered[1])), min(best + step, float(ordered[-2]))
    return best


def _off(basis: np.ndarray, places: np.ndarray) -> np.ndarray:
    fitted = np.linalg.lstsq(basis, places, rcond=None)[0]
    return np.linalg.norm(places - basis @ fitted, axis=1)


def _square(off: np.ndarray) -> float:
    return float(np.square(off).sum())
