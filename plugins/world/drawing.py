"""Drawing: the share of each pixel that a sprite covers, in a window around it, for many clips at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mutoscope.plugins.world.state import BACKGROUND, Scene, Sprite

LINES = {16: 12, 32: 8}
"""Lines per pixel, by rows; other sizes take what gives about 128 lines per frame height."""

SIDE = math.sqrt(math.pi)
"""Side of the square of a unit disc's area."""
EDGE = math.sqrt(4 * math.pi / math.sqrt(3))
"""Edge of the equilateral triangle of a unit disc's area."""
CODES = {"circle": 0, "square": 1, "triangle": 2}
REACH = {"circle": 1.0, "square": SIDE / 2 * math.sqrt(2), "triangle": EDGE / math.sqrt(3)}
"""Distance from the centroid to the farthest point, in radii."""


ACROSS = {"circle": 1.0, "square": SIDE / 2, "triangle": EDGE / 2}
"""Distance from the centroid to the farthest point sideways, in radii."""


FOOT = EDGE * math.sqrt(3) / 6
"""Distance from the triangle's centroid down to its foot; its top is twice as far up."""
EXTENT = {"circle": (-1.0, 1.0), "square": (-SIDE / 2, SIDE / 2), "triangle": (-2 * FOOT, FOOT)}
"""From top to bottom, in radii from the centroid."""


def half_width(shape: str, y: np.ndarray) -> np.ndarray:
    """Half the width at a height y within the extent of a shape of unit radius."""
    if shape == "circle":
        return np.sqrt(np.maximum(1 - y * y, 0))
    if shape == "square":
        return np.full_like(y, SIDE / 2)
    return np.maximum(y + 2 * FOOT, 0) / math.sqrt(3)


def coverage(
    shape: np.ndarray, radius: np.ndarray, centre: np.ndarray, rows: int, reach: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each pixel covered, in a window around each of M shapes.

    shape: M codes. radius: M, centre: M 2 (y, x), in frame heights of `rows` pixels. reach: pixels of a window to each
    side of its middle. Gives the windows M P P in [0, 1], float32, and their top left pixels M 2. Exact along a row;
    along a column the mean over so many lines a pixel.
    """
    lines = LINES.get(rows, max(2, 128 // rows))
    most = max((REACH[name] for name, code in CODES.items() if (shape == code).any()), default=1.0)
    reach = reach or math.ceil(float(radius.max()) * rows * most)
    pixels = 2 * reach + 1
    corner = np.floor(centre * rows).astype(np.int64) - reach
    unit = (1 / (radius[:, None] * rows)).astype(np.float32)
    offset = (corner - centre * rows).astype(np.float32)
    lower = (offset[:, 0, None] + np.arange(1, pixels * lines + 1, dtype=np.float32) / np.float32(lines)) * unit
    upper = lower - unit / np.float32(lines)
    edges = (offset[:, 1, None] + np.arange(pixels + 1, dtype=np.float32)) * unit
    covered = np.empty((len(shape), pixels, pixels), np.float32)
    for name, code in CODES.items():
        chosen = np.flatnonzero(shape == code)
        top, bottom = (np.float32(end) for end in EXTENT[name])
        for part in np.array_split(chosen, max(1, len(chosen) // 256)):
            above, below = np.maximum(upper[part], top), np.minimum(lower[part], bottom)
            share = np.maximum(below - above, 0) / (lower[part] - upper[part])
            half = half_width(name, (above + below) / 2).astype(np.float32)[:, :, None]
            left_of = np.clip(edges[part][:, None, :], -half, half) * share[:, :, None]
            summed = left_of.reshape(len(part), pixels, lines, pixels + 1).sum(2)
            covered[part] = np.diff(summed, axis=2) / (unit[part][:, :, None] * np.float32(lines))
    return np.clip(covered, 0, 1), corner


def draw(scenes: Sequence[Scene]) -> np.ndarray:
    """Scenes of one size and length as video, B T H W 3 bytes."""
    first = scenes[0]
    rows, columns, frames = *first.size, first.frames
    canvas = np.stack([background(s.background, rows, columns) for s in scenes])
    canvas = np.repeat(canvas[:, None], frames, axis=1).astype(np.float32)
    layers = max(len(scene.sprites) for scene in scenes)
    for layer in range(layers):
        drawn = [(i, scene.sprites[layer]) for i, scene in enumerate(scenes) if layer < len(scene.sprites)]
        shapes = [(i, sprite) for i, sprite in drawn if sprite.shape != "bar"]
        _draw_shapes(canvas, shapes, rows)
        for i, sprite in drawn:
            if sprite.shape == "bar":
                _draw_bar(canvas[i], sprite, rows)
    return np.rint(canvas).astype(np.uint8)


def background(kind: str, rows: int, columns: int) -> np.ndarray:
    """H W 3: `plain`, a vertical `gradient`, or a faint `texture` of stripes."""
    base = np.broadcast_to(np.float32(BACKGROUND), (rows, columns, 3)).copy()
    if kind == "gradient":
        base -= 25 * np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    elif kind == "texture":
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) / rows
        base -= (8 + 8 * np.sin(2 * np.pi * 4 * (x + y)))[..., None]
    return base


def _draw_shapes(canvas: np.ndarray, drawn: Sequence[tuple[int, Sprite]], rows: int) -> None:
    """One layer of sprites, at most one a clip, over all frames."""
    if not drawn:
        return
    frames, columns = canvas.shape[1], canvas.shape[3]
    clip = np.repeat([i for i, _ in drawn], frames)
    frame = np.tile(np.arange(frames), len(drawn))
    sprites = [sprite for _, sprite in drawn]
    shown = np.concatenate([sprite.visible for sprite in sprites]).astype(bool)
    if not shown.any():
        return
    shape = np.repeat([CODES[s.shape] for s in sprites], frames)[shown]
    radius = np.repeat([s.radius for s in sprites], frames)[shown]
    paint = np.repeat(np.float32([s.paint for s in sprites]), frames, axis=0)[shown]
    centre = np.concatenate([s.positions for s in sprites])[shown]
    covered, corner = coverage(shape, radius, centre, rows)
    pixels = np.arange(covered.shape[1])
    y, x = corner[:, 0, None] + pixels, corner[:, 1, None] + pixels
    out = ((y < 0) | (y >= rows))[:, :, None] | ((x < 0) | (x >= columns))[:, None, :]
    alpha = np.where(out, 0, covered)[..., None]
    place = (
        clip[shown][:, None, None],
        frame[shown][:, None, None],
        np.clip(y, 0, rows - 1)[:, :, None],
        np.clip(x, 0, columns - 1)[:, None, :],
    )
    inner = ~out
    seen = np.broadcast_arrays(*place)
    at = tuple(index[inner] for index in seen)
    flat = alpha[..., 0][inner][:, None]
    tint = np.broadcast_to(paint[:, None, None, :], (*out.shape, 3))[inner]
    canvas[at] += flat * (tint - canvas[at])


def _draw_bar(clip: np.ndarray, sprite: Sprite, rows: int) -> None:
    """A vertical bar as high as the frame; `radius` is half its width."""
    edges = np.arange(clip.shape[2] + 1) / rows
    for frame in np.flatnonzero(sprite.visible):
        left, right = sprite.positions[frame, 1] - sprite.radius, sprite.positions[frame, 1] + sprite.radius
        share = np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None) * rows
        clip[frame] += share[None, :, None].astype(np.float32) * (np.float32(sprite.paint) - clip[frame])
