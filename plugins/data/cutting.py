"""Which frames of a file are a clip, which part of the picture, and the pixels of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.plugins.data.index import Probe

EARLY = 1e-3
"""Seconds by which a frame may be shown too early: containers round time stamps, to milliseconds at worst."""


@dataclass(frozen=True)
class Cut:
    """A clip of a file. places: its frames, one per instant. rows, columns: the window, of the picture as decoded.
    size: rows and columns that the window is resized to. mirrored: columns run backwards."""

    places: np.ndarray
    rows: slice
    columns: slice
    size: tuple[int, int]
    mirrored: bool = False


@dataclass(frozen=True)
class Cutter:
    """How clips are cut from files.

    frames, fps: of a clip; fps 0 takes frames one by one. size: rows and columns, or, where `native` gives the
    multiples that rows and columns are cropped to, the area that a larger picture is scaled down to. rate: frames per
    second of folders of frames. hold: a file that ends within a clip shows its last frame on.
    """

    frames: int
    size: tuple[int, int]
    fps: float
    rate: float
    hold: bool
    native: tuple[int, int] | None = None

    @property
    def mixed(self) -> bool:
        """Whether clips are of several sizes."""
        return self.native is not None

    def clocked(self, probe: Probe, images: int) -> Probe:
        """A folder of frames at its rate; other files have stamps of their own. images: files that the clip has."""
        return replace(probe, tick=1 / self.rate) if images > 1 else probe

    def too_short(self, probe: Probe, images: int = 1) -> str:
        """Why a file gives no clip; empty where it gives one."""
        wanted = self._frames(probe)
        if self.hold or wanted == 1:
            return ""
        if self.fps == 0:
            return "" if len(probe.stamps) >= wanted else f"has {len(probe.stamps)} frames, a clip {wanted}"
        lasts, needed = self.clocked(probe, images).duration, (wanted - 1) / self.fps
        if len(probe.stamps) == 1:
            return f"is one image, a clip {wanted} frames"
        return "" if lasts > needed else f"lasts {lasts:.2f} s, a clip more than {needed:.2f} s"

    def shape(self, probe: Probe) -> tuple[int, int, int]:
        """Frames, rows, columns of a file's clip."""
        return (self._frames(probe), *self._target(probe)[0])

    def cut(self, probe: Probe, begin: float, down: float, across: float, mirrored: bool) -> Cut:
        """The clip of a file. begin, down, across: where it lies between first and last, top and bottom, left and
        right, 0 to 1."""
        size, scale = self._target(probe)
        (rows, columns), (stored_rows, stored_columns) = probe.size, probe.stored
        return Cut(
            self._places(probe, begin),
            _window(stored_rows, size[0] / scale * stored_rows / rows, down),
            _window(stored_columns, size[1] / scale * stored_columns / columns, across),
            size,
            mirrored,
        )

    def _frames(self, probe: Probe) -> int:
        """Of a native clip of an image one, of any other as many as asked for."""
        return 1 if self.mixed and len(probe.stamps) == 1 else self.frames

    def _places(self, probe: Probe, begin: float) -> np.ndarray:
        """The frame shown at each instant: the last one whose time has come."""
        count = len(probe.stamps)
        steps = np.arange(self._frames(probe))
        if self.fps == 0:
            first = min(int(begin * (count - len(steps) + 1)), count - len(steps)) if count > len(steps) else 0
            return np.minimum(first + steps, count - 1)
        shown = (probe.stamps - probe.stamps[0]) * probe.tick
        room = max(0.0, probe.duration - steps[-1] / self.fps)
        # From the start of a frame on, so that a file at the clip's own rate gives every frame once.
        first = np.searchsorted(shown, begin * room + EARLY, side="right") - 1
        instants = shown[first] + steps / self.fps
        return np.searchsorted(shown, instants + EARLY, side="right") - 1

    def _target(self, probe: Probe) -> tuple[tuple[int, int], float]:
        """Rows and columns of the clip, and the scale from the picture as shown to them."""
        rows, columns = probe.size
        if self.native is None:
            return self.size, max(self.size[0] / rows, self.size[1] / columns)
        area = self.size[0] * self.size[1]
        scale = min(1.0, (area / (rows * columns)) ** 0.5)
        fits = [max(1, int(side * scale / m + 1e-9)) * m for side, m in zip(probe.size, self.native, strict=True)]
        return (fits[0], fits[1]), max(scale, fits[0] / rows, fits[1] / columns)


def window_of(frames: np.ndarray, cut: Cut) -> np.ndarray:
    """The part of frames T H W 3 that a clip shows."""
    return frames[:, cut.rows, cut.columns]


def pixels_of(window: np.ndarray, cut: Cut) -> Tensor:
    """A window T H W 3 of uint8, resized: C T H W float32 in [-1, 1].

    Bicubic; a picture that is made smaller is filtered first (antialiasing), so that nothing flickers that is still.
    """
    shown = torch.from_numpy(window)
    if cut.mirrored:
        shown = shown.flip(2)
    image = rearrange(shown, "t h w c -> t c h w")
    if tuple(image.shape[-2:]) != cut.size:
        image = F.interpolate(image, size=cut.size, mode="bicubic", antialias=True)
    return rearrange(image, "t c h w -> c t h w").to(torch.float32).div_(127.5).sub_(1.0)


def _window(whole: int, part: float, where: float) -> slice:
    """So much of an axis, at a place between its ends."""
    length = min(whole, max(1, round(part)))
    begin = min(int(where * (whole - length + 1)), whole - length)
    return slice(begin, begin + length)
