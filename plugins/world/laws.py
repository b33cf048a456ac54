"""Laws of motion: each makes a scene from a generator. One function a law; all in world units and seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mutoscope.plugins.world.drawing import REACH
from mutoscope.plugins.world.state import (
    ACTIONS,
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
    """An object of a view. Where the view is faster or slower than training, the class is the one that it exceeds."""
    radius = float(rng.uniform(*RADII)) * view.larger
    speed = str(rng.choice(list(SPEEDS)))
    if view.faster != 1:
        speed = max(SPEEDS, key=lambda word: SPEEDS[word] * (1 if view.faster > 1 else -1))
    return Look(colour, shape, direction, speed, radius)


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
    paths = [np.repeat(_start(rng, view, o, np.zeros(2))[None], view.frames, 0) for o in looks]
    return _scene(view, "still", [_thing(view, o, path, moves=False) for o, path in zip(looks, paths, strict=True)])


def uniform(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Constant velocity, wholly in view where the clip is short enough."""
    return _scene(view, "uniform", [_thing(view, o, _straight(rng, view, o, _speed(rng, view, o))) for o in looks])


def bounce(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Constant speed between elastic walls; starts so that a wall is met within the clip where that is possible."""
    things = []
    for o in looks:
        speed = _speed(rng, view, o)
        axis = int(o.direction in ("left", "right"))
        box = np.array([1.0, view.width])
        low, high = o.reach, box - o.reach
        start = low + (high - low) * rng.uniform(size=2)
        sign = sum(DIRECTIONS[o.direction])
        ahead = rng.uniform(0.45, 0.7) * speed * view.times[-1]
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
        o = replace(o, speed="none")
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
        o = replace(o, speed="none")
        travel = np.array(DIRECTIONS[o.direction]) * 0.35 * view.width * view.times[-1]
        start = _start(rng, view, o, travel)
        start[0] = 1 - o.reach - rng.uniform(0.1, 0.25)
        rise = rng.uniform(0.55, 0.8)
        path = start + np.array(DIRECTIONS[o.direction]) * 0.35 * view.width * view.times[:, None]
        path[:, 0] = np.minimum(start[0] - rise * view.times + 0.5 * GRAVITY * view.times**2, 1 - o.reach)
        things.append(_thing(view, o, path))
    return _scene(view, "parabola", things, gravity=GRAVITY)


def collide(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """Two discs meet head on and part elastically; mass is radius squared. The first goes right, the second left."""
    left, right = (replace(o, radius=o.radius * 0.75) for o in looks[:2])
    y = float(rng.uniform(0.3, 0.7))
    u = np.array([_speed(rng, view, left), -_speed(rng, view, right)])
    mass = np.array([left.radius**2, right.radius**2])
    meeting = rng.uniform(0.4, 0.6) * view.times[-1]
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
    heights = rng.permutation(np.linspace(0.21, 0.79, len(looks))) if len(looks) > 1 else np.array([0.5])
    for k, o in enumerate(looks):
        o = replace(o, radius=o.radius * 0.7)
        place, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5) * min(1.0, view.width) * 0.7
        x = view.width / 2 + distance * np.cos(place + angle)
        depths.append(distance * np.sin(place + angle).mean())
        path = np.stack([np.full(view.frames, heights[k]), x], axis=1)
        things.append(_thing(view, o, path, moves=False))
    order = np.argsort(depths)
    return _scene(view, "orbit", things, sprites=tuple(sprite_of(things[i]) for i in order))


def paint(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """A brush leaves a stroke of another colour, which stays."""
    o = looks[0]
    path = _straight(rng, view, o, SPEEDS["quickly"] * max(1, view.faster))
    brush = _thing(view, replace(o, speed="quickly"), path)
    stroke = str(rng.choice([c for c in PALETTE if c != o.colour]))
    fine = np.linspace(0, view.frames - 1, view.frames * 2)
    dots = []
    for moment in fine:
        place = path[0] + (path[-1] - path[0]) * (moment / max(view.frames - 1, 1))
        visible = np.arange(view.frames) >= moment
        dots.append(Sprite("circle", PALETTE[stroke], o.radius * 0.4, np.repeat(place[None], view.frames, 0), visible))
    return _scene(view, "paint", [brush], sprites=(*dots, sprite_of(brush)), notes={"scenery": stroke})


def eat(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """An eater crosses pieces of food, which are gone once it has reached them."""
    o = looks[0]
    path = _straight(rng, view, o, SPEEDS["quickly"] * max(1, view.faster))
    eater = _thing(view, replace(o, speed="quickly"), path)
    food_colour = str(rng.choice([c for c in PALETTE if c != o.colour]))
    pieces = []
    for share in (0.55, 1.0):
        ahead = path[0] + (path[-1] - path[0]) * share + np.array(DIRECTIONS[o.direction]) * o.radius
        place = np.clip(ahead, 0.06, np.array([0.94, view.width - 0.06]))
        gone = np.linalg.norm(path - place, axis=1) <= o.radius * 1.05
        visible = ~np.maximum.accumulate(gone)
        pieces.append(Sprite("circle", PALETTE[food_colour], 0.05, np.repeat(place[None], view.frames, 0), visible))
    return _scene(view, "eat", [eater], sprites=(*pieces, sprite_of(eater)), notes={"scenery": food_colour})


CELLS = 5
"""Cells of the game's board along a frame height."""


def grid(rng: np.random.Generator, view: View, looks: list[Look]) -> Scene:
    """A board with walls and a player that moves by its actions, one cell a frame, stopped by walls."""
    o = replace(looks[0], radius=0.36 / CELLS)
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
    o = looks[0]
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


def _always(view: View) -> np.ndarray:
    return np.ones(view.frames, bool)


LAWS_BY_NAME: dict[str, Callable[[np.random.Generator, View, list[Look]], Scene]] = {
    f.__name__: f for f in (still, uniform, bounce, fall, parabola, collide, orbit, paint, eat, grid, agent)
}

SIDEWAYS = ("left", "right")
NOWHERE = ("none",)
DIRECTIONS_OF: dict[str, tuple[str, ...]] = {
    "still": NOWHERE, "fall": ("down",), "parabola": SIDEWAYS, "orbit": NOWHERE, "grid": NOWHERE, "agent": NOWHERE,
}  # fmt: skip
"""Directions in which the things of a law can be said to move; all of them where it is not listed."""
