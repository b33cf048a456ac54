"""The oracle: pixels back to states, without learning.

Every pixel is a mixture of the background and one colour of the palette; connected pixels of a colour are a piece,
pieces that follow each other are a track. Shapes are told by overlap with drawn templates, pooled over frames;
velocity by a line through the frames in which a track is whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mutoscope.plugins.world.drawing import CODES, REACH, background, coverage
from mutoscope.plugins.world.state import BACKGROUND, BAR, COLOURS, DIRECTIONS, PALETTE, RADII, SHAPES, SPEEDS, WALL

FAINTEST = 0.12
"""Share of colour below which a pixel counts as background."""
STRANGEST = 70.0
"""Distance of a pixel from its mixture, in grey levels, above which it belongs to no colour."""
SMALLEST = 0.35 * np.pi * (0.7 * RADII[0]) ** 2
"""Area of the smallest piece that counts, in squared frame heights."""
FARTHEST = 0.3
"""Longest way of a track between two frames, in frame heights."""
HIDDEN = 0.97
"""Share of a track's largest area below which what touches a bar is partly behind it."""
DARKER = (BACKGROUND[0] - WALL[0]) / (BACKGROUND[0] - BAR[0])
"""Contrast of a wall, in that of a bar."""
SLOW, FAST = sorted(SPEEDS.values())
STILL = SLOW / 2
"""World units per second below which a thing does not move."""


@dataclass
class Track:
    """One thing as read. positions: T 2 (y, x) in frame heights, nan where unseen; whole: T, seen and cut by nothing.

    overlap: by shape, the soft intersection over union with its template, mean over frames; overlaps: the same of every
    frame it is told from, T, nan elsewhere. velocity: world units per
    second, of the line through the whole frames; first: the same of the first third of them.
    """

    colour: str
    positions: np.ndarray
    areas: np.ndarray
    whole: np.ndarray
    overlap: dict[str, float] = field(default_factory=dict)
    overlaps: dict[str, np.ndarray] = field(default_factory=dict)
    velocity: np.ndarray = field(default_factory=lambda: np.full(2, np.nan))
    first: np.ndarray = field(default_factory=lambda: np.full(2, np.nan))
    residual: float = np.nan

    @property
    def seen(self) -> np.ndarray:
        return ~np.isnan(self.positions[:, 0])

    @property
    def shape(self) -> str:
        return max(self.overlap, key=lambda name: self.overlap[name]) if self.overlap else "none"

    @property
    def radius(self) -> float:
        """Of the disc of its area, in frame heights; the median over whole frames."""
        at = self.whole if self.whole.any() else self.seen
        return float(np.sqrt(np.median(self.areas[at]) / np.pi))

    def shape_within(self, frames: np.ndarray) -> str:
        """The shape as told from some frames, T booleans; `none` where it cannot be."""
        told = {name: values[frames & np.isfinite(values)] for name, values in self.overlaps.items()}
        seen = {name: float(values.mean()) for name, values in told.items() if len(values)}
        return max(seen, key=lambda name: seen[name]) if seen else "none"

    def direction(self, of_first: bool = False) -> str:
        return direction_of(self.first if of_first else self.velocity)

    def speed(self, of_first: bool = False) -> str:
        return speed_of(self.first if of_first else self.velocity)


@dataclass
class Reading:
    """A clip as read: its tracks, longest first. valid: at least one track, and not more than can be told apart.

    bar: (from, to) in x of an upright grey bar, in frame heights; None where there is none.
    """

    tracks: list[Track]
    frames: int
    bar: tuple[float, float] | None = None

    @property
    def valid(self) -> bool:
        return 1 <= len(self.tracks) <= 12

    @property
    def count(self) -> np.ndarray:
        """Things seen in each frame."""
        if not self.tracks:
            return np.zeros(self.frames, int)
        return np.sum([track.seen for track in self.tracks], axis=0)


def direction_of(velocity: np.ndarray) -> str:
    """The nearest of the four directions, `none` for what stands still or was not read."""
    if not np.isfinite(velocity).all() or np.linalg.norm(velocity) < STILL:
        return "none"
    return max(DIRECTIONS, key=lambda name: float(np.dot(DIRECTIONS[name], velocity)))


def speed_of(velocity: np.ndarray) -> str:
    """The speed class, cut halfway between the classes."""
    if not np.isfinite(velocity).all() or np.linalg.norm(velocity) < STILL:
        return "none"
    return "slowly" if np.linalg.norm(velocity) < (SLOW + FAST) / 2 else "quickly"


def read(video: np.ndarray, fps: float = 8.0, ground: str = "plain") -> list[Reading]:
    """Readings of B T H W 3 bytes (or floats 0 to 255). ground: the background that was asked for."""
    pixels = np.asarray(video, dtype=np.float32)
    clips, frames, rows, columns, _ = pixels.shape
    kind, alpha = _mixtures(pixels, background(ground, rows, columns))
    pieces = _pieces(kind, alpha, rows)
    readings = []
    order = np.argsort(pieces["clip"], kind="stable")
    bounds = np.searchsorted(pieces["clip"][order], np.arange(clips + 1))
    tracked: list[tuple[Track, np.ndarray]] = []
    for clip in range(clips):
        mine = order[bounds[clip] : bounds[clip + 1]]
        tracks = _tracks(pieces, mine, frames)
        kept = [(t, at) for t, at in tracks if t.seen.sum() >= max(2, frames // 4)] if frames > 1 else tracks
        kept.sort(key=lambda pair: (-int(pair[0].seen.sum()), -float(np.nansum(pair[0].areas))))
        tracked += kept
        readings.append(Reading([t for t, _ in kept], frames, _bar(kind[clip], alpha[clip])))
    _tell_shapes(tracked, pieces, kind, alpha, rows)
    for track, _ in tracked:
        _fit(track, fps)
    return readings


def _mixtures(pixels: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel the colour that it is a mixture with (-1: none) and the share of it."""
    paints = np.float32([*PALETTE.values(), BAR, WALL])
    offset = pixels - ground
    best = np.full(pixels.shape[:-1], np.inf, np.float32)
    kind = np.full(pixels.shape[:-1], -1, np.int8)
    alpha = np.zeros(pixels.shape[:-1], np.float32)
    square = np.einsum("...c,...c->...", offset, offset)
    for k, paint in enumerate(paints):
        way = paint - ground
        length = np.einsum("hwc,hwc->hw", way, way)
        share = np.einsum("bthwc,hwc->bthw", offset, way) / length
        bounded = np.clip(share, 0, 1)
        distance = square - 2 * bounded * share * length + bounded * bounded * length
        better = distance < best
        best[better], kind[better], alpha[better] = distance[better], k, bounded[better]
    none = (alpha < FAINTEST) | (best > STRANGEST**2)
    kind[none], alpha[none] = -1, 0.0
    return kind, alpha


def _bar(kind: np.ndarray, alpha: np.ndarray) -> tuple[float, float] | None:
    """The columns that are mostly grey in a clip, T H W, with soft edges."""
    # A faint bar is a fainter wall: both are grey.
    grey = np.where(kind == len(COLOURS), alpha, np.where(kind > len(COLOURS), alpha * DARKER, 0.0))
    profile = np.minimum(grey, 1.0).mean((0, 1))
    columns = np.flatnonzero(profile > 0.4)
    if not len(columns):
        return None
    rows, half = kind.shape[1], profile[max(columns[0] - 1, 0) : columns[-1] + 2].sum() / 2
    middle = np.average(np.arange(len(profile)) + 0.5, weights=np.where(profile > 0.05, profile, 0))
    return float((middle - half) / rows), float((middle + half) / rows)


def _pieces(kind: np.ndarray, alpha: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Connected pieces of one colour in one frame, as columns: clip, frame, colour, area, y, x, whole, near a bar."""
    from scipy import ndimage  # here, since it takes a second to import

    clips, frames, _, columns = kind.shape
    flat = kind.reshape(clips * frames, rows, columns)
    weight = alpha.reshape(flat.shape)
    neighbours = np.zeros((3, 3, 3), bool)
    neighbours[1] = True
    labels = np.zeros(flat.shape, np.int64)
    count = 0
    for k in range(len(COLOURS)):
        found, n = ndimage.label(flat == k, structure=neighbours)
        labels[found > 0] = found[found > 0] + count
        count += n
    if not count:
        names = ("clip", "frame", "colour", "area", "y", "x", "whole", "near")
        return {name: np.zeros(0, bool if name in ("whole", "near") else int) for name in names}
    frame, y, x = np.nonzero(labels)
    label = labels[frame, y, x]
    mass = weight[frame, y, x]
    total = np.bincount(label, mass, count + 1)
    hidden = ndimage.binary_dilation(flat >= len(COLOURS), structure=neighbours)
    edge = (y == 0) | (y == rows - 1) | (x == 0) | (x == columns - 1)
    cut = np.bincount(label, edge & (mass > 0.5), count + 1) > 0
    near = np.bincount(label, hidden[frame, y, x] & (mass > 0.2), count + 1) > 0
    first = np.zeros(count + 1, np.int64)
    first[label] = np.arange(len(label))
    area = total / rows**2
    keep = np.flatnonzero(area >= SMALLEST)
    safe = np.maximum(total, 1e-9)
    where = frame[first]
    return {
        "clip": (where // frames)[keep],
        "frame": (where % frames)[keep],
        "colour": flat[where, y[first], x[first]][keep],
        "area": area[keep],
        "y": ((np.bincount(label, mass * (y + 0.5), count + 1) / safe) / rows)[keep],
        "x": ((np.bincount(label, mass * (x + 0.5), count + 1) / safe) / rows)[keep],
        "whole": ~cut[keep],
        "near": near[keep],
    }


def _tracks(pieces: dict[str, np.ndarray], mine: np.ndarray, frames: int) -> list[tuple[Track, np.ndarray]]:
    """Tracks of one clip, with the piece of each frame (-1: none). A track keeps its colour and never jumps far."""
    from scipy.optimize import linear_sum_assignment

    tracks: list[tuple[int, np.ndarray, np.ndarray, int]] = []  # colour, piece by frame, last place, last frame
    for frame in range(frames):
        here = mine[pieces["frame"][mine] == frame]
        for colour in np.unique(pieces["colour"][here]):
            found = here[pieces["colour"][here] == colour]
            places = np.stack([pieces["y"][found], pieces["x"][found]], axis=1)
            old = [i for i, t in enumerate(tracks) if t[0] == colour]
            taken: set[int] = set()
            if old:
                last = np.stack([tracks[i][2] for i in old])
                gap = np.array([frame - tracks[i][3] for i in old])
                cost = np.linalg.norm(last[:, None] - places[None], axis=2)
                for a, b in zip(*linear_sum_assignment(cost), strict=True):
                    if cost[a, b] <= FARTHEST * min(gap[a], 3):
                        _, piece, _, _ = tracks[old[a]]
                        piece[frame] = found[b]
                        tracks[old[a]] = (colour, piece, places[b], frame)
                        taken.add(int(b))
            for b in range(len(found)):
                if b not in taken:
                    piece = np.full(frames, -1)
                    piece[frame] = found[b]
                    tracks.append((colour, piece, places[b], frame))
    return [(_track(pieces, colour, piece), piece) for colour, piece, _, _ in tracks]


def _track(pieces: dict[str, np.ndarray], colour: int, piece: np.ndarray) -> Track:
    seen = piece >= 0
    positions, areas = np.full((len(piece), 2), np.nan), np.full(len(piece), np.nan)
    positions[seen, 0], positions[seen, 1] = pieces["y"][piece[seen]], pieces["x"][piece[seen]]
    areas[seen] = pieces["area"][piece[seen]]
    whole = np.zeros(len(piece), bool)
    behind = pieces["near"][piece[seen]] & (areas[seen] < HIDDEN * areas[seen].max())
    whole[seen] = pieces["whole"][piece[seen]] & ~behind
    return Track(COLOURS[colour], positions, areas, whole)


def _tell_shapes(
    tracked: list[tuple[Track, np.ndarray]],
    pieces: dict[str, np.ndarray],
    kind: np.ndarray,
    alpha: np.ndarray,
    rows: int,
) -> None:
    """Fills in each track's overlap with the templates, from its whole frames where it has any."""
    used = [(i, f) for i, (t, _) in enumerate(tracked) for f in np.flatnonzero(t.whole if t.whole.any() else t.seen)]
    if not used:
        return
    owner = np.array([i for i, _ in used])
    at = np.array([tracked[i][1][f] for i, f in used])
    radius = np.sqrt(pieces["area"][at] / np.pi)
    centre = np.stack([pieces["y"][at], pieces["x"][at]], axis=1)
    reach = int(np.ceil(radius.max() * rows * max(REACH.values())))
    scores = np.zeros((len(SHAPES), len(tracked)))
    for code, name in enumerate(SHAPES):
        template, corner = coverage(np.full(len(at), CODES[name]), radius, centre, rows, reach)
        if code == 0:
            seen = _windows(pieces, at, kind, alpha, corner, template.shape[1])
        overlap = np.minimum(template, seen).sum((1, 2)) / np.maximum(template, seen).sum((1, 2))
        scores[code] = np.bincount(owner, overlap, len(tracked)) / np.maximum(
            np.bincount(owner, minlength=len(tracked)), 1
        )
        each = np.full((len(tracked), kind.shape[1]), np.nan)
        each[owner, [f for _, f in used]] = overlap
        for (track, _), values in zip(tracked, each, strict=True):
            track.overlaps[name] = values
    for i, (track, _) in enumerate(tracked):
        track.overlap = {name: float(scores[code, i]) for code, name in enumerate(SHAPES)}


def _windows(
    pieces: dict[str, np.ndarray], at: np.ndarray, kind: np.ndarray, alpha: np.ndarray, corner: np.ndarray, width: int
) -> np.ndarray:
    """The share of each piece's colour in a window around it, M P P."""
    rows, columns = kind.shape[2:]
    steps = np.arange(width)
    y, x = corner[:, 0, None] + steps, corner[:, 1, None] + steps
    inside = ((y >= 0) & (y < rows))[:, :, None] & ((x >= 0) & (x < columns))[:, None, :]
    place = (
        pieces["clip"][at][:, None, None],
        pieces["frame"][at][:, None, None],
        np.clip(y, 0, rows - 1)[:, :, None],
        np.clip(x, 0, columns - 1)[:, None, :],
    )
    same = kind[place] == pieces["colour"][at][:, None, None]
    return np.where(inside & same, alpha[place], 0.0)


def _fit(track: Track, fps: float) -> None:
    """Lines through the positions of whole frames; of seen ones where fewer than two are whole."""
    at = np.flatnonzero(track.whole if track.whole.sum() >= 2 else track.seen)
    if len(at) < 2:
        return
    times, places = at / fps, track.positions[at]
    slope, start = np.polyfit(times, places, 1)
    track.velocity = slope
    track.residual = float(np.sqrt(np.mean((places - start - slope * times[:, None]) ** 2)))
    few = max(2, -(-len(at) // 3))
    track.first = np.polyfit(times[:few], places[:few], 1)[0]
