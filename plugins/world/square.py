"""Clips cut to their centre square, as models of one shape of frame are trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mutoscope.plugins.world.state import Scene


def side_of(size: tuple[int, int]) -> int:
    """Pixels of the side of the largest square in a frame of (rows, columns)."""
    return min(size)


def cut_video(video: np.ndarray) -> np.ndarray:
    """T H W 3 to T S S 3, the middle of every frame."""
    rows, columns = video.shape[1:3]
    side = side_of((rows, columns))
    top, left = (rows - side) // 2, (columns - side) // 2
    return np.ascontiguousarray(video[:, top : top + side, left : left + side])


def cut_scene(scene: Scene) -> Scene:
    """The scene as its centre square shows it: units become the square's height, and a thing whose centre is outside is
    not seen. What captions say of it stays, so that of a tall clip a speed is read as larger than it is called."""
    rows, columns = scene.size
    side = side_of(scene.size)
    scale = rows / side
    start = np.array([(rows - side) // 2, (columns - side) // 2]) / rows

    def moved(positions: np.ndarray) -> np.ndarray:
        return (positions - start) * scale

    def inside(positions: np.ndarray) -> np.ndarray:
        return ((positions >= 0) & (positions <= 1)).all(1)

    things = tuple(
        replace(
            thing,
            radius=thing.radius * scale,
            positions=moved(thing.positions),
            seen=thing.seen & inside(moved(thing.positions)),
        )
        for thing in scene.things
    )
    sprites = tuple(
        replace(sprite, radius=sprite.radius * scale, positions=moved(sprite.positions)) for sprite in scene.sprites
    )
    bar = None if scene.bar is None else tuple((x - float(start[1])) * scale for x in scene.bar)
    return replace(
        scene,
        things=things,
        sprites=sprites,
        size=(side, side),
        bar=bar,
        gravity=scene.gravity * scale,
        camera=tuple(v * scale for v in scene.camera),
    )
