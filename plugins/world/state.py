"""What a clip of the world is: sprites over time, and what is true of them.

World units: 1 is the frame's height; y grows downwards, x to the right, both from the top left corner. Time is in
seconds. A wider frame shows more of the world, never a stretched one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

VERSION = "shapes-2"
"""Changes whenever the same (settings, split, index) would give another clip."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 200, 40),
    "magenta": (210, 60, 200),
    "cyan": (50, 190, 210),
}
COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (0.0, -1.0), "right": (0.0, 1.0), "up": (-1.0, 0.0), "down": (1.0, 0.0)}
SPEEDS = {"slowly": 0.18, "quickly": 0.40}
"""World units per second of the middle of each class; a clip's speed is within SPREAD of it."""
SPREAD = 0.08
RADII = (0.14, 0.19)
"""Radius of the disc with the area of any shape: size is no cue to shape."""
BACKGROUND = (245, 245, 245)
BAR = (120, 120, 120)
WALL = (70, 70, 70)
LAWS = ("still", "uniform", "bounce", "fall", "parabola", "collide", "orbit", "paint", "eat", "grid", "agent")
EVENTS = ("none", "pan", "occlude", "appear", "leave")
ACTIONS = {"stay": (0.0, 0.0), "left": (0.0, -1.0), "right": (0.0, 1.0), "up": (-1.0, 0.0), "down": (1.0, 0.0)}

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Sprite:
    """Something drawn. positions: T 2 (y, x) of its centroid. visible: T booleans. shape: of SHAPES, or `bar`."""

    shape: str
    paint: Colour
    radius: float
    positions: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Thing:
    """An object that captions speak of: an attribute each, and its path before the camera moves.

    direction: of its first motion, one of DIRECTIONS or `none`. speed: class of it, or `none`. seen: T booleans, in
    view and not hidden for the most part.
    """

    colour: str
    shape: str
    radius: float
    positions: np.ndarray
    seen: np.ndarray
    direction: str = "none"
    speed: str = "none"

    @property
    def paint(self) -> Colour:
        return PALETTE[self.colour]


@dataclass(frozen=True)
class Scene:
    """A clip before it is drawn. size: rows, columns. fps: frames per second. sprites: in painter's order.

    actions: T of ACTIONS' places, for laws with an agent. bar: (from, to) in x of an occluder. gravity: world units
    per second squared. camera: its velocity (y, x). possible: false for the impossible half of a quadruplet. notes:
    `scenery` is the colour of what is drawn besides the things, `camera` the side that it pans to.
    """

    law: str
    event: str
    things: tuple[Thing, ...]
    sprites: tuple[Sprite, ...]
    frames: int
    size: tuple[int, int]
    fps: float
    background: str = "plain"
    actions: np.ndarray | None = None
    bar: tuple[float, float] | None = None
    gravity: float = 0.0
    camera: tuple[float, float] = (0.0, 0.0)
    possible: bool = True
    notes: dict[str, object] = field(default_factory=dict)
