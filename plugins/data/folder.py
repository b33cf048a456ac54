"""The dataset `folder`: real files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, final

import av
import numpy as np
import torch
from torch import Tensor

from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import DataError, InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.randomness import Draw, key
from mutoscope.core.settings import Count, Natural, NonNegative, Positive, Share, Size
from mutoscope.core.values import Batch
from mutoscope.plugins.data.cutting import Cut, Cutter, pixels_of, window_of
from mutoscope.plugins.data.index import Probe, index
from mutoscope.plugins.data.listing import Entry, list_folder
from mutoscope.plugins.data.workers import Broken, Pool

VERSION = 1
"""Of the pixels that a file gives; part of the fingerprint."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Usable:
    """A file that gives a clip, and what it holds."""

    entry: Entry
    probe: Probe


@dataclass(frozen=True)
class Contents:
    """What an index says of a folder: clips by split, files that are broken and why, files too short for a clip."""

    clips: dict[str, tuple[Usable, ...]]
    broken: dict[str, str]
    short: dict[str, str]


@final
class Folder(Dataset):
    """Videos, images and folders of frames from disk, with captions, by PyAV.

    Every mp4, m4v, mov, webm, mkv, avi or gif, every png, jpg, webp or bmp, and every folder of numbered images below
    `path` is one clip; one file gives one clip per epoch. Captions come from `metadata.jsonl` or `metadata.csv` in the
    folder or in the subfolder of a split (`file_name`, and where known `caption`, `label`, `actions` with one number
    per frame of the file, `split`, `sha256`), else from a text beside the file (a.mp4, a.txt). A file without one has
    the empty caption; where none has one, captions are not published. Splits are told by the metadata, else by
    subfolders train, validation, test; where neither tells any, by a hash of each file's name.

    A clip shows at each instant the frame that a player would, whatever the file's own rate; pictures are turned as
    their file says, resized with antialiasing, and cropped. Starts, crops and mirrorings of training clips are a
    function of (epoch, number); those of other splits are first or centre.

    Files are decoded in child processes, with nothing concealed. One that cannot be read whole is skipped, and named
    in the run's `data.json`; too many stop the run. What files hold is found once and kept in the user's cache. A file
    that breaks later is replaced by the next one.

    path: the folder, relative to where the command runs. frames, fps: of a clip; fps 0 takes the file's frames one by
    one. size: rows and columns; of native clips an area, which larger pictures are scaled down to. start: where in the
    file a training clip begins. fit: `crop` fills the size, `native` keeps size and aspect and crops to multiples; an
    image is then a clip of one frame. multiple: of rows and columns of native clips. crop: where training clips are
    cropped. flip: mirror half of the training clips. short: skip files that end within a clip, or hold their last
    frame. numbered: a folder of numbered images is a clip, or so many images. rate: frames per second of folders of
    frames. held: shares of files for validation and test, where nothing tells the splits. bad: the largest share of
    files that may be broken. verify: decode every frame when a file is first seen, else only list them. workers: child
    processes. timeout: seconds without progress after which a file counts as broken. memory: bytes of address space
    that a child may use, 0 for no limit.
    """

    name = "folder"
    tiny = {"frames": 3, "size": (16, 24), "fps": 4.0, "workers": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        path: str = "",
        frames: Count = 17,
        size: Size = (64, 64),
        fps: NonNegative = 8.0,
        start: Literal["random", "first", "centre"] = "random",
        fit: Literal["crop", "native"] = "crop",
        multiple: Size = (16, 16),
        crop: Literal["centre", "random"] = "centre",
        flip: bool = False,
        short: Literal["skip", "hold"] = "skip",
        numbered: Literal["clip", "images"] = "clip",
        rate: Positive = 25.0,
        held: tuple[Share, Share] = (0.05, 0.05),
        bad: Share = 0.05,
        verify: bool = True,
        workers: Count = 2,
        timeout: Positive = 30.0,
        memory: Natural = 4 << 30,
    ) -> None:
        self.root = _folder(path)
        if sum(held) >= 1:
            raise ValueError("held: leaves nothing to train on")
        native = tuple(multiple) if fit == "native" else None
        self.cutter = Cutter(frames, tuple(size), fps, rate, short == "hold", native)
        self.start, self.crop, self.flip = start, crop, flip
        self.bad, self.verify, self.held = bad, verify, held
        self.fixed = start != "random" and crop != "random" and not flip
        self.entries = list_folder(self.root, numbered == "clip", held)
        if not self.entries:
            raise DataError(f"{self.root}: holds no video and no image")
        self.pool = Pool(workers, timeout, memory)
        self.lost: dict[str, str] = {}
        labels = {entry.label for entry in self.entries} - {None}
        texts = sorted(label for label in labels if isinstance(label, str))
        self.labels = {text: i for i, text in enumerate(texts)}
        self.classes = len(texts) or max((int(n) for n in labels if isinstance(n, int)), default=-1) + 1
        self.actions = max((max(e.actions, default=0) + 1 for e in self.entries if e.actions is not None), default=0)
        self.captions = any(entry.caption for entry in self.entries)

    # What there is

    def facts(self) -> Iterable[ClipFact]:
        """The clips; where sizes mix, this looks into every file."""
        frames, size = self.cutter.frames, self.cutter.size
        if self.cutter.mixed:
            shapes = {self.cutter.shape(clip.probe) for clips in self.contents.clips.values() for clip in clips}
            frames = max(t for t, _, _ in shapes)
            size = max(((h, w) for _, h, w in shapes), key=lambda s: (s[0] * s[1], s))
        yield ClipFact(3, frames, size, self.cutter.mixed, self.classes, self.actions, self.captions)

    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def length(self, split: str) -> int:
        if split not in SPLITS:
            raise InputError(field="split", problem="folder has no such split", got=split, allowed=SPLITS)
        if not (clips := self.contents.clips[split]):
            raise DataError(f"{self.root}: the {split} split has no clips: zero batches")
        return len(clips)

    def sizes(self, split: str, indices: Sequence[int]) -> list[tuple[int, int, int]] | None:
        if not self.cutter.mixed:
            return None
        clips = self.contents.clips[split]
        return [self.cutter.shape(clips[i].probe) for i in indices]

    def fingerprint(self) -> str:
        said = [
            (split, clip.entry.name, clip.entry.caption, clip.entry.label, clip.entry.actions, clip.probe.size,
             len(clip.probe.stamps), clip.probe.end, clip.probe.content)
            for split, clips in self.contents.clips.items() for clip in clips
        ]  # fmt: skip
        return f"folder:{VERSION}:{key(self.cutter, self.start, self.crop, self.flip, said):016x}"

    def report(self) -> dict[str, Any]:
        """Clips by split, and every file that gives none, with the reason."""
        broken = self._broken()
        told = [f"{len(broken)} of {len(self.entries)} files skipped"] if broken else []
        told += [f"{len(self.contents.short)} files too short for a clip"] if self.contents.short else []
        return {
            "note": f"{self.root}: {', '.join(told)}" if told else "",
            "files": len(self.entries),
            "clips": {split: len(clips) for split, clips in self.contents.clips.items()},
            "skipped": [{"file": name, "reason": reason} for name, reason in sorted(broken.items())],
            "short": [{"file": name, "reason": reason} for name, reason in sorted(self.contents.short.items())],
            "labels": self.labels,
        }

    @cached_property
    def contents(self) -> Contents:
        """Looks into every file that is not in the index. Raises DataError when too few can be used."""
        found = index(self.root, self.entries, self.pool, self.verify)
        clips: dict[str, list[Usable]] = {split: [] for split in SPLITS}
        broken, short = {}, {}
        for entry in self.entries:
            probe = found[entry.name]
            if isinstance(probe, str):
                broken[entry.name] = probe
            elif entry.actions is not None and len(entry.actions) != len(probe.stamps):
                broken[entry.name] = f"has {len(entry.actions)} actions for {len(probe.stamps)} frames"
            elif reason := self.cutter.too_short(probe, len(entry.paths)):
                short[entry.name] = reason
            else:
                clips[entry.split].append(Usable(entry, self.cutter.clocked(probe, len(entry.paths))))
        self._check_share(broken)
        if not any(clips.values()):
            reasons = _examples({**broken, **short})
            raise DataError(f"{self.root}: none of {_files(self.entries)} gives a clip: {reasons}")
        return Contents({split: tuple(some) for split, some in clips.items()}, broken, short)

    def _broken(self) -> dict[str, str]:
        return {**self.contents.broken, **self.lost}

    def _check_share(self, broken: dict[str, str]) -> None:
        n = len(self.entries)
        if len(broken) == n:
            raise DataError(f"{self.root}: none of {_files(self.entries)} can be read: {_examples(broken)}")
        if len(broken) > self.bad * n:
            raise DataError(
                f"{self.root}: {len(broken)} of {n} files are broken, more than the share of {self.bad:g} "
                f"that `bad` allows: {_examples(broken)}"
            )

    # Clips

    def batch(self, split: str, indices: Sequence[int], epoch: int = 0) -> Batch:
        length = self.length(split)
        if not len(indices) or min(indices) < 0 or max(indices) >= length:
            raise DataError(f"folder: the {split} split has clips 0 to {length - 1}; asked for {list(indices)[:3]}")
        numbers = [int(i) for i in indices]
        made = self.pool.each([partial(self._clip, split, number, epoch) for number in numbers])
        videos, entries, actions = zip(*made, strict=True)
        labels = [self.labels.get(e.label, e.label) if isinstance(e.label, str) else e.label for e in entries]
        return Batch(
            video=tuple(videos) if self.cutter.mixed else torch.stack(videos),
            prompt=tuple(entry.caption or "" for entry in entries) if self.captions else None,
            label=torch.tensor(labels) if self.classes else None,
            actions=torch.tensor(np.stack(actions)) if self.actions and not self.cutter.mixed else None,
            clips=tuple(numbers),
        )

    def _clip(self, split: str, number: int, epoch: int) -> tuple[Tensor, Entry, np.ndarray | None]:
        """A clip C T H W in [-1, 1], what is said of it, and its actions."""
        while True:
            clip = self._standing(split, number)
            cut = self._cut(split, number, epoch, clip.probe)
            try:
                video = self._decoded(clip, cut)
            except Broken as broken:
                self.lost[clip.entry.name] = str(broken)
                self._check_share(self._broken())
                continue
            actions = None if clip.entry.actions is None else np.asarray(clip.entry.actions)[cut.places]
            return video, clip.entry, actions

    def _standing(self, split: str, number: int) -> Usable:
        """The clip of a number, or in place of one that broke since, the next: of its shape, where there is one."""
        clips = self.contents.clips[split]
        following = [*clips[number:], *clips[:number]]
        left = [clip for clip in following if clip.entry.name not in self.lost]
        if not left:
            raise DataError(f"{self.root}: no file of the {split} split can be read any more: {_examples(self.lost)}")
        shape = self.cutter.shape(clips[number].probe)
        return next((clip for clip in left if self.cutter.shape(clip.probe) == shape), left[0])

    def _cut(self, split: str, number: int, epoch: int, probe: Probe) -> Cut:
        begin, down, across, mirrored = {"first": 0.0}.get(self.start, 0.5), 0.5, 0.5, False
        if split == "train" and not self.fixed:
            drawn = Draw(0, "folder", epoch, (number,)).numpy("cut", number).random(4)
            begin = float(drawn[0]) if self.start == "random" else begin
            down, across = (float(drawn[1]), float(drawn[2])) if self.crop == "random" else (down, across)
            mirrored = self.flip and bool(drawn[3] < 0.5)
        return self.cutter.cut(probe, begin, down, across, mirrored)

    def _decoded(self, clip: Usable, cut: Cut) -> Tensor:
        probe = clip.probe
        needed, spread = np.unique(cut.places, return_inverse=True)
        before = [k for k in probe.keys if k <= needed[0]]
        seek = int(probe.stamps[before[-1]]) if before and before[-1] > 0 and not probe.ordered else None
        due = needed if probe.ordered else probe.stamps[needed]
        shape = (len(needed), *probe.stored, 3)
        size = int(np.prod(shape))
        if self.pool.memory and size > self.pool.memory:
            raise Broken(f"a clip of it needs {size:,} bytes, more than `memory` allows")
        job = {"do": "read", "paths": clip.entry.paths, "due": due.tolist(), "ordered": probe.ordered, "seek": seek,
               "stored": probe.stored}  # fmt: skip
        with self.pool.child() as worker:
            worker.ask(job, size)
            window = window_of(worker.pixels(shape), cut).copy()  # so that the child decodes on while this is resized
        return pixels_of(window, cut)[:, torch.from_numpy(spread)]

    @classmethod
    def material(cls, folder: Path) -> dict[str, Any]:
        """A few clips of noise with captions."""
        noise = np.random.Generator(np.random.Philox(key=1))
        (folder / "train").mkdir()
        for n in range(4):
            with av.open(str(folder / "train" / f"{n}.mp4"), "w") as container:
                stream = container.add_stream("mpeg4", rate=Fraction(8))
                stream.height, stream.width, stream.pix_fmt = 24, 34, "yuv420p"
                for image in noise.integers(0, 256, (12, 24, 34, 3), dtype=np.uint8):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                container.mux(stream.encode())
            (folder / "train" / f"{n}.txt").write_text(f"noise number {n}")
        return {"path": str(folder)}


def _folder(path: str) -> Path:
    """The folder of a setting. Raises InputError where there is none."""
    if not path:
        raise InputError(field="path", problem="path is missing: the folder of your videos, data.path=DIR")
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "there is no such folder"
        raise InputError(field="path", problem=f"path: {what}", got=path)
    return folder


def _files(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} files" if len(entries) > 1 else "1 file"


def _examples(reasons: dict[str, str], most: int = 3) -> str:
    """The first few of them, on one line."""
    said = [f"{name}: {reason}" for name, reason in list(reasons.items())[:most]]
    return "; ".join(said) + (f"; and {len(reasons) - most} more" if len(reasons) > most else "")
