"""Requests that begin from video files: an image to animate, a video to go on from, to connect, to fill, to edit."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.request import Request
from mutoscope.registry.addresses import digest

IMAGES = (".png", ".gif", ".jpg", ".jpeg", ".webp", ".bmp")
"""Files that PIL reads, which has every pixel and frame of an animated one."""


@dataclass(frozen=True)
class Begins:
    """What a request begins from, as files; at most one of animate, extend, connect, edit and fill.

    animate: an image, or the first frame of a video. extend: a video, with so many frames before and after it. connect:
    two videos, with so many frames between. edit: a video. fill: a video, of which the mask's white pixels, or the
    frames listed as missing, are made. loop: the end leads back to the beginning. strength: of an edit, 0 to 1. window,
    overlap, expand: as of a request. sampler: a word for another sampler than the run's.
    """

    animate: Path | None = None
    extend: Path | None = None
    connect: tuple[Path, ...] = ()
    edit: Path | None = None
    fill: Path | None = None
    mask: Path | None = None
    missing: tuple[int, ...] = ()
    before: int = 0
    after: int = 0
    between: int = 0
    loop: bool = False
    strength: float | None = None
    window: int | None = None
    overlap: int | None = None
    sampler: str | None = None
    expand: bool = False

    def check(self) -> None:
        """Raises InputError on what does not go together."""
        tasks = [name for name in ("animate", "extend", "connect", "edit", "fill") if getattr(self, name)]
        if len(tasks) > 1:
            raise InputError(f"one task at a time; got {', '.join('--' + name for name in tasks)}")
        needs = {
            "before": ("extend", "--extend FILE"),
            "after": ("extend", "--extend FILE"),
            "between": ("connect", "--connect FILE --connect FILE"),
            "mask": ("fill", "--fill FILE"),
            "missing": ("fill", "--fill FILE"),
        }
        for name, (task, said) in needs.items():
            if getattr(self, name) and task not in tasks:
                raise InputError(field=f"--{name}", problem=f"belongs to {said}")
        if self.strength is not None and "edit" not in tasks:
            raise InputError(field="--strength", problem="belongs to --edit FILE")
        if self.connect and len(self.connect) != 2:
            raise InputError(field="--connect", problem="joins two videos; give it twice", got=len(self.connect))
        if self.extend and not self.before + self.after:
            raise InputError(field="--extend", problem="asks for --before N or --after N frames")
        if self.connect and not self.between:
            raise InputError(field="--connect", problem="asks for --between N frames")
        if self.fill and not (self.mask or self.missing):
            raise InputError(field="--fill", problem="asks for --mask FILE or --missing FRAMES")
        if self.loop and tasks:
            raise InputError(field="--loop", problem=f"does not go with --{tasks[0]}")

    def asked(self, request: Request, frames: int, size: tuple[int, int]) -> Request:
        """The request that begins from the files. frames, size: of the model, where the request says none."""
        n, size = len(request), request.size or size

        def read(file: Path) -> Tensor:
            return read_video(file, size).expand(n, -1, -1, -1, -1)

        request = replace(request, window=self.window, overlap=self.overlap, loop=self.loop, expand=self.expand)
        if self.animate:
            request = request.animating(read(self.animate)[:, :, :1], request.frames or frames)
        elif self.extend:
            request = request.extending(read(self.extend), before=self.before, after=self.after)
        elif self.connect:
            request = request.connecting(*map(read, self.connect), between=self.between)  # type: ignore[arg-type]
        elif self.edit:
            request = request.editing(read(self.edit))
        elif self.fill:
            video = read(self.fill)
            request = request.filling(video, self._stays(video))
        if self.window is None and request.stays is not None and request.shape(frames, size)[0] > frames:
            return replace(request, window=frames)
        return request

    def _stays(self, video: Tensor) -> Tensor:
        """Which pixels of a video to fill stay, B T H W."""
        n, _, t, h, w = video.shape
        stays = torch.ones(n, t, h, w, dtype=torch.bool)
        if late := [frame for frame in self.missing if frame >= t]:
            raise InputError(field="--missing", problem=f"the video has frames 0 to {t - 1}", got=late[0])
        stays[:, list(self.missing)] = False
        if self.mask is not None:
            white = read_video(self.mask, (h, w)).mean(dim=1) > 0
            if white.shape[1] not in (1, t):
                raise InputError(
                    field="--mask", problem=f"is one image, or has the video's {t} frames", got=white.shape[1]
                )
            stays &= ~white
        return stays

    def settings(self) -> dict[str, Any]:
        """Settings of the sampler that is asked for."""
        return {} if self.strength is None else {"strength": self.strength}

    def record(self) -> dict[str, Any]:
        """What is said of a sample that began from files; nothing where none did."""
        said = {name: value for name, value in vars(self).items() if value not in (None, (), 0, False)}
        for name in ("animate", "extend", "edit", "fill", "mask"):
            if name in said:
                said[name] = _told(said[name])
        if self.connect:
            said["connect"] = [_told(file) for file in self.connect]
        return {"task": said} if said else {}


def _told(file: Path) -> dict[str, str]:
    return {"name": file.name, "hash": digest(file.read_bytes().hex())[:12]}


def read_video(file: Path, size: tuple[int, int] | None = None) -> Tensor:
    """A video or image as 1 C T H W in [-1, 1], of so many rows and columns. Raises InputError on another file.

    Made smaller by the mean of the pixels that fall together, larger by interpolation.
    """
    try:
        data = Path(file).read_bytes()
        frames = _images(data) if Path(file).suffix.lower() in IMAGES else _decoded(data)
    except OSError as error:
        raise InputError(f"{file}: cannot be read as a video or an image: {error.strerror or error}") from None
    if not len(frames):
        raise InputError(f"{file}: has no frames")
    video = torch.from_numpy(frames).permute(3, 0, 1, 2).float().div_(127.5).sub_(1.0)
    if size is not None and tuple(video.shape[2:]) != tuple(size):
        smaller = size[0] <= video.shape[2] and size[1] <= video.shape[3]
        flat = video.transpose(0, 1)
        flat = F.interpolate(flat, size, mode="area") if smaller else F.interpolate(flat, size, mode="bilinear")
        video = flat.transpose(0, 1)
    return video[None]


def _images(data: bytes) -> np.ndarray:
    """T H W 3 uint8. Raises OSError on what is no image."""
    from PIL import Image, ImageSequence  # comes with matplotlib

    with Image.open(io.BytesIO(data)) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def _decoded(data: bytes) -> np.ndarray:
    """T H W 3 uint8. Raises OSError on what is no video."""
    try:
        with av.open(io.BytesIO(data)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise OSError(str(error)) from None
