"""What the world's metrics share: clips read once, and the read thing that answers each thing asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material
from mutoscope.plugins.world.oracle import Reading, Track, direction_of, read, speed_of
from mutoscope.plugins.world.state import VERSION, Scene, Thing

ORACLE = "oracle-2"
"""Changes whenever a reading would."""

_READ: OrderedDict[int, tuple[Tensor, list[Reading]]] = OrderedDict()


def asked(material: Material) -> tuple[Scene, ...]:
    """The scenes asked for. Raises InputError on data that is not of the world."""
    scenes = material.real.state
    if not scenes or not isinstance(scenes[0], Scene):
        raise InputError(field="metrics", problem="reads the embedded world, so that the data must be `shapes`")
    return scenes


def readings(material: Material) -> list[Reading]:
    """The clips as read; kept for the next metric that looks at the same video."""
    video = material.video
    if id(video) in _READ and _READ[id(video)][0] is video:
        return _READ[id(video)][1]
    scenes = asked(material)
    pixels = ((video.float().clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 4, 1).numpy()
    found = read(pixels, scenes[0].fps, scenes[0].background)
    _READ[id(video)] = (video, found)
    while len(_READ) > 2:
        _READ.popitem(last=False)
    return found


def matched(reading: Reading, scene: Scene) -> list[Track | None]:
    """For each thing of a scene the track that answers it best, or None: by colour and shape first, then by motion."""
    from scipy.optimize import linear_sum_assignment  # here, since it takes a second to import

    if not reading.tracks:
        return [None] * len(scene.things)
    cost = np.array([[-likeness(track, thing, scene) for track in reading.tracks] for thing in scene.things])
    found: list[Track | None] = [None] * len(scene.things)
    for i, j in zip(*linear_sum_assignment(cost), strict=True):
        found[i] = reading.tracks[j]
    return found


def likeness(track: Track, thing: Thing, scene: Scene) -> float:
    """Attributes in common, colour and shape counting double."""
    marks = right(track, thing, scene)
    return 2.0 * marks["colour"] + 2.0 * marks["shape"] + marks["direction"] + marks["speed"]


def right(track: Track | None, thing: Thing, scene: Scene) -> dict[str, bool]:
    """Which attributes of a thing a track has. Under laws that turn a thing round, the first motion counts."""
    if track is None:
        return dict.fromkeys(("colour", "shape", "direction", "speed"), False)
    velocity = motion(track, scene)
    return {
        "colour": track.colour == thing.colour,
        "shape": track.shape == thing.shape,
        "direction": direction_of(velocity) == thing.direction,
        "speed": speed_of(velocity) == thing.speed,
    }


def motion(track: Track, scene: Scene) -> np.ndarray:
    """The velocity that captions speak of, the camera's own taken off: of the first motion where the law turns a thing
    round, level where it is thrown."""
    turns = scene.law not in ("uniform", "still", "paint", "eat", "parabola")
    velocity = (track.first if turns else track.velocity) + np.array(scene.camera)
    return velocity * (0.0, 1.0) if scene.law == "parabola" else velocity


def counted(reading: Reading, scene: Scene) -> list[Track]:
    """The tracks that count as things: not those of the scenery's colour, unless a thing has it."""
    scenery = scene.notes.get("scenery")
    return [track for track in reading.tracks if track.colour != scenery]


def protocol(name: str) -> dict[str, object]:
    """What makes the world's numbers comparable."""
    return {"metric": name, "reader": ORACLE, "world": VERSION}


def stacked(rows: Sequence[dict[str, float]], prefix: str) -> dict[str, np.ndarray]:
    """One array per name from one dict per clip."""
    return {f"{prefix}.{name}": np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
