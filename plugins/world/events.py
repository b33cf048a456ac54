"""Events: each changes a scene that a law has made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mutoscope.plugins.world.drawing import ACROSS
from mutoscope.plugins.world.laws import SIDEWAYS
from mutoscope.plugins.world.state import BAR, DIRECTIONS, SPEEDS, Scene, Sprite, Thing

PAN = 0.15
"""World units per second that a panning camera moves."""
SLIM = 0.65
"""Size of what passes behind a bar, so that there is room for it on both sides."""

UNCLEAR = 0.04
"""World units per second around the border of the speed classes that are neither."""


def pan(rng: np.random.Generator, scene: Scene) -> Scene:
    """The camera moves sideways at a constant speed; things keep their own paths."""
    side = int(rng.choice([-1, 1]))
    camera = np.array([0.0, side * PAN])
    shift = -camera * np.arange(scene.frames)[:, None] / scene.fps
    sprites = tuple(replace(s, positions=s.positions + shift) for s in scene.sprites)
    things = tuple(_seen(replace(t, positions=t.positions + shift), scene) for t in scene.things)
    notes = {**scene.notes, "camera": "right" if side > 0 else "left"}
    return replace(scene, event="pan", sprites=sprites, things=things, notes=notes, camera=(0.0, side * PAN))


def occlude(rng: np.random.Generator, scene: Scene) -> Scene:
    """The first thing passes behind an upright bar that stands before everything; only under the law `uniform`."""
    first, place = passing(rng, scene, scene.things[0])
    sprites = tuple(
        Sprite(first.shape, first.paint, first.radius, first.positions, s.visible)
        if s.positions is scene.things[0].positions
        else s
        for s in scene.sprites
    )
    return with_bar(replace(scene, things=(first, *scene.things[1:]), sprites=sprites), place)


def passing(rng: np.random.Generator, scene: Scene, thing: Thing) -> tuple[Thing, float]:
    """A thing on a level path from one side of a bar to the other, as fast as it must be, and the bar's place.

    Slimmer than it was; in whole view before and after where the frame is wide enough for that.
    """
    radius = thing.radius * SLIM
    across, width = radius * ACROSS[thing.shape], scene.size[1] / scene.size[0]
    sign = DIRECTIONS[thing.direction][1]
    duration = max(scene.frames - 1, 1) / scene.fps
    needed = 2 * (bar_half(radius, thing.shape) + across) + 2 / scene.size[0]
    own = float(np.linalg.norm(thing.positions[-1] - thing.positions[0])) / duration
    slow, fast = sorted(SPEEDS, key=lambda word: SPEEDS[word])
    between = (SPEEDS[slow] + SPEEDS[fast]) / 2
    travel = max(own * duration, needed)
    if abs(travel / duration - between) < UNCLEAR:
        travel = (between + UNCLEAR) * duration
    travel = min(travel, width - 2 * across)
    slack = max(width - 2 * across - travel, 0.0)
    start = across + slack * rng.uniform(0.3, 0.7)
    x = start + travel * np.linspace(0, 1, scene.frames)
    y = float(np.clip(thing.positions[0, 0], 1.6 * radius, 1 - 1.6 * radius))
    path = np.stack([np.full(scene.frames, y), x if sign > 0 else x[::-1]], axis=1)
    speed = slow if travel / duration < between else fast
    moved = replace(thing, radius=radius, positions=path, speed=speed, seen=np.ones(scene.frames, bool))
    return moved, start + travel / 2


def bar_half(radius: float, shape: str) -> float:
    """Half the width of a bar that hides a thing whole."""
    return 1.1 * radius * ACROSS[shape]


def with_bar(scene: Scene, centre: float, half: float | None = None) -> Scene:
    """A bar wide enough for the first thing, or of a given half width."""
    half = half or bar_half(scene.things[0].radius, scene.things[0].shape)
    place = np.repeat(np.array([[0.5, centre]]), scene.frames, 0)
    bar = Sprite("bar", BAR, half, place, np.ones(scene.frames, bool))
    things = tuple(replace(t, seen=t.seen & (np.abs(t.positions[:, 1] - centre) > half)) for t in scene.things)
    return replace(
        scene, event="occlude", sprites=(*scene.sprites, bar), things=things, bar=(centre - half, centre + half)
    )


def appear(rng: np.random.Generator, scene: Scene) -> Scene:
    """The first thing is not there before some frame in the first half."""
    first = int(rng.integers(1, max(2, scene.frames // 2)))
    return _cut(scene, np.arange(scene.frames) >= first, "appear")


def leave(rng: np.random.Generator, scene: Scene) -> Scene:
    """The first thing is gone from some frame in the second half on."""
    last = int(rng.integers(scene.frames // 2 + 1, max(scene.frames, scene.frames // 2 + 2)))
    return _cut(scene, np.arange(scene.frames) < last, "leave")


def _cut(scene: Scene, there: np.ndarray, event: str) -> Scene:
    first = scene.things[0]
    sprites = tuple(
        replace(s, visible=s.visible & there) if s.positions is first.positions else s for s in scene.sprites
    )
    things = (replace(first, seen=first.seen & there), *scene.things[1:])
    return replace(scene, event=event, sprites=sprites, things=things)


def _seen(thing: Thing, scene: Scene) -> Thing:
    """The thing with `seen` as its shifted path has it."""
    box = np.array([1.0, scene.size[1] / scene.size[0]])
    return replace(thing, seen=((thing.positions > 0) & (thing.positions < box)).all(1))


EVENTS_BY_NAME: dict[str, Callable[[np.random.Generator, Scene], Scene]] = {
    f.__name__: f for f in (pan, occlude, appear, leave)
}
EVENT_DIRECTIONS: dict[str, tuple[str, ...]] = {"occlude": SIDEWAYS}
"""As DIRECTIONS_OF, where an event narrows it."""
EVENT_LAWS: dict[str, tuple[str, ...]] = {"occlude": ("uniform",)}
"""Laws under which an event can happen; under others it does not."""
