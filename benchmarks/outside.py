"""Videos of other generators: a folder of files, scored by the same protocol as models of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from mutoscope.benchmarks.evaluation import Looked
from mutoscope.core.errors import DataError, InputError
from mutoscope.core.values import Batch
from mutoscope.registry.addresses import digest

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif", ".png")
"""Files that are clips; a png is one where it is animated, or where a clip has one frame."""
LOSSLESS = frozenset({"png", "apng", "ffv1", "rawvideo", "huffyuv", "ffvhuff", "utvideo"})
"""Codecs that keep every byte."""
INDEX = "metadata.jsonl"
"""Says of every file which caption it answers, where the names' order does not: {"file_name", "caption"}."""


def is_videos(folder: Path) -> bool:
    """Whether a folder holds clips."""
    return folder.is_dir() and bool(files(folder))


def files(folder: Path) -> list[Path]:
    """The clips of a folder, in the order of their names, numbers in them counted as numbers."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(found, key=lambda p: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", p.name)])


def check_videos(folder: Path, clips: int) -> None:
    """Raises InputError before any work where there are too few clips."""
    if not folder.is_dir():
        raise InputError(field="videos", problem="no such folder", got=str(folder))
    if (n := len(files(folder))) < clips:
        raise InputError(field="videos", problem=f"{folder} has {n} clips, one for each of {clips} is needed")


def address(folder: Path, clips: int) -> str:
    """Hash of what the first clips are: names, sizes and times of the files, and the index."""
    said = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files(folder)[:clips]]
    index = folder / INDEX
    return digest([said, index.read_text(encoding="utf-8") if index.is_file() else ""])


@dataclass(frozen=True)
class Clip:
    """A file as read. frames: T H W 3 bytes."""

    frames: np.ndarray
    codec: str


def read_videos(folder: Path, real: Batch) -> Looked:
    """One clip for each real one: by caption where there is an index, else in the order of names.

    A clip has the frames of the real ones, and their size or a whole multiple of it, which is averaged down. Raises
    DataError naming the file that is not so.
    """
    assert isinstance(real.video, Tensor)
    chosen = _chosen(folder, real)
    frames, rows, columns = real.video.shape[-3:]
    videos, codecs, factors = [], set(), set()
    for path in chosen:
        clip = _read(path)
        t, h, w, _ = clip.frames.shape
        if t != frames:
            raise DataError(f"{path}: has {t} frames; the clips that it is held against have {frames}")
        factor = h // rows
        if factor < 1 or (h, w) != (factor * rows, factor * columns):
            raise DataError(f"{path}: is {h} x {w}, no whole multiple of {rows} x {columns}")
        codecs.add("uint8" if clip.codec in LOSSLESS else clip.codec)
        factors.add(factor)
        whole = torch.from_numpy(clip.frames).float()
        whole = whole.reshape(t, rows, factor, columns, factor, 3).mean((2, 4)).round()
        videos.append(whole.permute(3, 0, 1, 2).div(127.5).sub(1.0))
    resize = "" if factors == {1} else "mean of " + ", ".join(f"{f} x {f}" for f in sorted(factors)) + " pixels"
    return Looked(torch.stack(videos), "+".join(sorted(codecs)), resize)


def _chosen(folder: Path, real: Batch) -> list[Path]:
    """The file that answers each real clip."""
    index, n = folder / INDEX, len(real)
    if not index.is_file() or real.prompt is None:
        return files(folder)[:n]
    by_caption: dict[str, list[Path]] = {}
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
        try:
            said = json.loads(line)
            by_caption.setdefault(str(said["caption"]), []).append(folder / Path(said["file_name"]).name)
        except (ValueError, KeyError, TypeError):
            raise InputError(
                file=index, line=number, problem='is not {"file_name": ..., "caption": ...}', got=line
            ) from None
    chosen = []
    for prompt in real.prompt:
        waiting = by_caption.get(prompt)
        if not waiting:
            raise DataError(f'{index}: no clip is left for the caption "{prompt}"')
        chosen.append(waiting.pop(0))
    return chosen


def _read(path: Path) -> Clip:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            return Clip(np.stack(shown), stream.codec_context.name)
    except (av.FFmpegError, IndexError, ValueError, OSError) as bad:
        raise DataError(f"{path}: cannot be read: {' '.join(str(bad).split())}") from None


def captions(real: Batch) -> Sequence[dict[str, object]]:
    """What a generator is to be asked for, one line a clip."""
    told = []
    for i, clip in enumerate(real.clips):
        line: dict[str, object] = {"clip": int(clip)}
        if real.prompt is not None:
            line["caption"] = real.prompt[i]
        if real.label is not None:
            line["label"] = int(real.label[i])
        if real.actions is not None:
            line["actions"] = real.actions[i].tolist()
        told.append(line)
    return told
