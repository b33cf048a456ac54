"""Laws of motion: each makes a scene from a generator. One function a law; all in world units and seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mutoscope.plugins.world.drawing import REACH
from mutoscope.plugins.world.state import (
    ACTIONS,
    BAR,
    DIRECTIONS,
    PALETTE,
    RADII,
    SPEEDS,
    SPREAD,
    WALL,
    Scene,
    Sprite,
    Thing,
)


@dataclass(frozen=True)
class View:
    """What a clip looks like from outside: frames, size (rows, columns), frames per second, background, extremes.

    faster, larger: factors on speed and radius, 1 within the training distribution.
    """

    frames: int
    size: tuple[int, int]
    fps: float
    background: str = "plain"
    faster: float = 1.0
    larger: float = 1.0

    @property
    def width(self) -> float:
        """Of the frame in world units."""
        return self.size[1] / self.size[0]

    @property
    def times(self) -> np.ndarray:
        return np.arange(self.frames) / self.fps


@dataclass(frozen=True)
class Look:
    """What is decided of an object before it moves."""

    colour: str
    shape: str
    direction: str
    speed: str
    radius: float

    @property
    def reach(self) -> float:
        return self.radius * REACH[self.shape]


def look(rng: np.random.Generator, view: View, colour: str, shape: str, direction: str) -> Look:
    radius = float(rng.uniform(*RADII)) * view.larger
    return Look(colour, shape, direction, str(rng.choice(list(SPEEDS))), radius)


def sprite_of(thing: Thing) -> Sprite:
    return Sprite(thing.shape, thing.paint, thing.radius, thing.positions, np.ones(len(thing.positions), bool))


def _speed(rng: np.random.Generator, view: View, looks: Look) -> float:
    return SPEEDS[looks.speed] * float(rng.uniform(1 - SPREAD, 1 + SPREAD)) * view.faster


def _start(rng: np.random.Generator, view: View, looks: Look, travel: np.ndarray) -> np.ndarray:
    """A start from which an object stays in view over a travel; the middle of an impossible range where none does."""
    box = np.array([1.0, view.width])
    low = looks.reach - np.minimum(travel, 0)
    high = box - looks.reach - np.maximum(travel, 0)
    middle = (low + high) / 2
    return np.where(low < high, low + (high - low) * rng.uniform(size=2), middle)


def _straight(rng: np.random.Generator, view: View, looks: Look, speed: float) -> np.ndarray:
    velocity = np.array(DIRECTIONS[looks.direction]) * speed
    start = _start(rng, view, looks, velocity * view.times[-1])
    return start + velocity * view.times[:, None]


def _thing(view: View, looks: Look, positions: np.ndarray, moves: bool = True) -> Thing:
    inside = ((positions > 0) & (positions < np.array([1.0, view.width]))).all(1)
    direction, speed = (looks.direction, looks.speed) if moves else ("none", "none")
    return Thing(looks.colour, looks.shape, looks.radius, positions, inside, direction, speed)


def _scene(view: View, law: str, things: list[Thing], **more) -> Scene:
    sprites = more.pop("sprites", tuple(sprite_of(t) for t in things))
    return Scene(law, "none", tuple(things), sprites, view.frames, view.size, view.fps, view.background, **more)


def still(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Nothing moves."""
    return _scene(
        view, "still",
        [_thing(view, o, np.repeat(_start(rng, view, o, np.zeros(2))[None], view.frames, 0), moves=False) for o in looks],
    )  # fmt: skip


def uniform(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Constant velocity, wholly in view where the clip is short enough."""
    return _scene(view, "uniform", [_thing(view, o, _straight(rng, view, o, _speed(rng, view, o))) for o in looks])


def bounce(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Constant speed between elastic walls; starts so that a wall is met within the clip where that is possible."""
    things = []
    for o in looks:
        speed = _speed(rng, view, o) * 1.5
        axis = int(o.direction in ("left", "right"))
        box = np.array([1.0, view.width])
        low, high = o.reach, box - o.reach
        start = low + (high - low) * rng.uniform(size=2)
        sign = sum(DIRECTIONS[o.direction])
        ahead = rng.uniform(0.2, 0.7) * speed * view.times[-1]
        start[axis] = np.clip(high[axis] - ahead if sign > 0 else low + ahead, low, high[axis])
        path = np.repeat(start[None], view.frames, 0)
        path[:, axis] = _folded(start[axis] + sign * speed * view.times, low, high[axis])
        things.append(_thing(view, o, path))
    return _scene(view, "bounce", things)


def _folded(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Reflection between two walls."""
    span = high - low
    phase = np.mod(x - low, 2 * span)
    return low + np.where(phase > span, 2 * span - phase, phase)


GRAVITY = 1.6
"""World units per second squared."""


def fall(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Dropped from rest; lies on the floor once there."""
    things = []
    for o in looks:
        o = replace(o, direction="down", speed="none")
        start = _start(rng, view, o, np.zeros(2))
        start[0] = o.reach + rng.uniform(0, 0.15)
        path = np.repeat(start[None], view.frames, 0)
        path[:, 0] = np.minimum(start[0] + 0.5 * GRAVITY * view.times**2, 1 - o.reach)
        things.append(_thing(view, o, path))
    return _scene(view, "fall", things, gravity=GRAVITY)


def parabola(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Thrown sideways and up; lies on the floor once there."""
    things = []
    for o in looks:
        direction = str(rng.choice(["left", "right"]))
        o = replace(o, direction=direction, speed="none")
        travel = np.array(DIRECTIONS[direction]) * 0.35 * view.width * view.times[-1]
        start = _start(rng, view, o, travel)
        start[0] = 1 - o.reach - rng.uniform(0.1, 0.25)
        rise = rng.uniform(0.55, 0.8)
        path = start + np.array(DIRECTIONS[direction]) * 0.35 * view.width * view.times[:, None]
        path[:, 0] = np.minimum(start[0] - rise * view.times + 0.5 * GRAVITY * view.times**2, 1 - o.reach)
        things.append(_thing(view, o, path))
    return _scene(view, "parabola", things, gravity=GRAVITY)


def collide(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Two objects meet head on and part elastically; mass is radius squared."""
    left, right = (replace(o, shape="circle", radius=o.radius * 0.75) for o in looks[:2])
    left, right = replace(left, direction="right"), replace(right, direction="left")
    y = float(rng.uniform(0.3, 0.7))
    u = np.array([_speed(rng, view, left), -_speed(rng, view, right)])
    mass = np.array([left.radius**2, right.radius**2])
    meeting = rng.uniform(0.3, 0.6) * view.times[-1]
    touch = left.radius + right.radius
    centre = view.width / 2 + rng.uniform(-0.08, 0.08) * view.width
    at = np.array([centre - touch / 2, centre + touch / 2])
    after = np.array(
        [
            ((mass[0] - mass[1]) * u[0] + 2 * mass[1] * u[1]) / mass.sum(),
            ((mass[1] - mass[0]) * u[1] + 2 * mass[0] * u[0]) / mass.sum(),
        ]
    )
    since = (view.times - meeting)[:, None]
    x = at + np.where(since < 0, u, after) * since
    things = [
        _thing(view, o, np.stack([np.full(view.frames, y), x[:, i]], axis=1)) for i, o in enumerate((left, right))
    ]
    return _scene(view, "collide", things, notes={"meeting": float(meeting)})


def orbit(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Landmarks fixed in space under a camera that turns about the upright axis; parallel projection."""
    turn = rng.choice([-1, 1]) * rng.uniform(1.2, 1.8)
    angle = rng.uniform(0, 2 * np.pi) + turn * view.times
    things, depths = [], []
    heights = rng.permutation(np.linspace(0.25, 0.75, len(looks))) if len(looks) > 1 else np.array([0.5])
    for k, o in enumerate(looks):
        o = replace(o, radius=o.radius * 0.7)
        place, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5) * min(1.0, view.width) * 0.7
        x = view.width / 2 + distance * np.cos(place + angle)
        depths.append(distance * np.sin(place + angle).mean())
        path = np.stack([np.full(view.frames, heights[k]), x], axis=1)
        things.append(_thing(view, replace(o, direction="none", speed="none"), path, moves=False))
    order = np.argsort(depths)
    return _scene(view, "orbit", things, sprites=tuple(sprite_of(things[i]) for i in order))


def paint(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """A brush leaves a stroke of its colour, which stays."""
    o = looks[0]
    path = _straight(rng, view, o, SPEEDS["quickly"] * view.faster)
    brush = _thing(view, replace(o, speed="quickly"), path)
    fine = np.linspace(0, view.frames - 1, view.frames * 2)
    dots = []
    for moment in fine:
        place = path[0] + (path[-1] - path[0]) * (moment / max(view.frames - 1, 1))
        visible = np.arange(view.frames) >= moment
        dots.append(Sprite("circle", o_paint(o), o.radius * 0.4, np.repeat(place[None], view.frames, 0), visible))
    return _scene(view, "paint", [brush], sprites=(*dots, sprite_of(brush)))


def eat(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """An eater crosses pieces of food, which are gone once it has reached them."""
    o = looks[0]
    path = _straight(rng, view, o, SPEEDS["quickly"] * view.faster)
    eater = _thing(view, replace(o, speed="quickly"), path)
    food_colour = str(rng.choice([c for c in PALETTE if c != o.colour]))
    pieces = []
    for share in (0.55, 1.0):
        ahead = path[0] + (path[-1] - path[0]) * share + np.array(DIRECTIONS[o.direction]) * o.radius
        place = np.clip(ahead, 0.06, np.array([0.94, view.width - 0.06]))
        gone = np.linalg.norm(path - place, axis=1) <= o.radius * 1.05
        visible = ~np.maximum.accumulate(gone)
        pieces.append(Sprite("circle", PALETTE[food_colour], 0.05, np.repeat(place[None], view.frames, 0), visible))
    return _scene(view, "eat", [eater], sprites=(*pieces, sprite_of(eater)), notes={"food": food_colour})


CELLS = 5
"""Cells of the game's board along a frame height."""


def grid(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """A board with walls and a player that moves by its actions, one cell a frame, stopped by walls."""
    o = replace(looks[0], radius=0.36 / CELLS, direction="none", speed="none")
    across = max(2, round(CELLS * view.width))
    cell = np.array([1 / CELLS, view.width / across])
    walls = rng.uniform(size=(CELLS, across)) < 0.2
    place = np.array([rng.integers(CELLS), rng.integers(across)])
    walls[tuple(place)] = False
    actions = rng.integers(0, len(ACTIONS), view.frames)
    steps = np.array(list(ACTIONS.values())).astype(int)
    path = []
    for t in range(view.frames):
        goal = place + (steps[actions[t]] if t else 0)
        inside = (goal >= 0).all() and (goal < (CELLS, across)).all()
        place = goal if inside and not walls[tuple(goal)] else place
        path.append((place + 0.5) * cell)
    actions[0] = 0
    blocks = tuple(
        Sprite(
            "square",
            WALL,
            0.5 / CELLS / 0.8862,
            np.repeat(((np.array(w) + 0.5) * cell)[None], view.frames, 0),
            _always(view),
        )
        for w in np.argwhere(walls)
    )
    player = _thing(view, o, np.array(path), moves=False)
    return _scene(
        view, "grid", [player], sprites=(*blocks, sprite_of(player)), actions=actions, notes={"walls": walls.tolist()}
    )  # fmt: skip


def agent(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """An object that actions move, frame by frame, clamped at the walls."""
    o = replace(looks[0], direction="none", speed="none")
    step = 0.9 / view.fps
    actions = np.repeat(rng.integers(0, len(ACTIONS), -(-view.frames // 2)), 2)[: view.frames]
    actions[0] = 0
    moves = np.array(list(ACTIONS.values()))
    low, high = o.reach, np.array([1.0, view.width]) - o.reach
    place = low + (high - low) * rng.uniform(0.2, 0.8, size=2)
    path = []
    for t in range(view.frames):
        place = np.clip(place + moves[actions[t]] * step, low, high)
        path.append(place)
    return _scene(view, "agent", [_thing(view, o, np.array(path), moves=False)], actions=actions)


LAWS_BY_NAME: dict[str, Callable[[np.random.Generator, View, list[Look]], Scene]] = {
    f.__name__: f for f in (still, uniform, bounce, fall, parabola, collide, orbit, paint, eat, grid, agent)
}


# Events change a scene that a law has made


def pan(rng: np.random.Generator, scene: Scene) -> Scene:
    """The camera moves sideways at a constant speed; things keep their own paths."""
    side = int(rng.choice([-1, 1]))
    shift = np.stack([np.zeros(scene.frames), -side * 0.15 * np.arange(scene.frames) / scene.fps], axis=1)
    sprites = tuple(replace(s, positions=s.positions + shift) for s in scene.sprites)
    things = tuple(replace(t, positions=t.positions + shift) for t in scene.things)
    words = {"camera": "right" if side > 0 else "left"}
    return replace(scene, event="pan", sprites=sprites, things=things, notes={**scene.notes, **words})


def occlude(rng: np.random.Generator, scene: Scene) -> Scene:
    """An upright bar stands before everything, in the way of the first thing."""
    return with_bar(
        scene, float(np.clip(scene.things[0].positions[:, 1].mean(), 0.3, scene.size[1] / scene.size[0] - 0.3))
    )


def with_bar(scene: Scene, centre: float) -> Scene:
    """A bar at least as wide as the widest thing."""
    half = max(1.1 * t.radius for t in scene.things)
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


EVENTS_BY_NAME: dict[str, Callable[[np.random.Generator, Scene], Scene]] = {
    f.__name__: f for f in (pan, occlude, appear, leave)
}


def o_paint(looks: Look) -> tuple[int, int, int]:
    return PALETTE[looks.colour]


def _always(view: View) -> np.ndarray:
    return np.ones(view.frames, bool)
