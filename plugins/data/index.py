"""The index of a data folder: what every file holds, found once, kept as JSON in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from mutoscope.core.errors import WorkError
from mutoscope.core.randomness import key
from mutoscope.core.storage.atomic import write_text
from mutoscope.plugins.data.listing import Entry
from mutoscope.plugins.data.workers import Broken, Pool

FORMAT = 2
ENDS = 1 << 16
"""Bytes at either end of a file that stand for its content where files are not looked into whole."""
CHUNK = 256
"""Files between two looks at whether the index is to be written, so that an interrupted one is not begun again."""
EVERY = 20.0
"""Seconds between two writes of an unfinished index."""


@dataclass(frozen=True)
class Probe:
    """What a file holds. stamps: when each frame is shown, in ticks. tick: seconds. end: of the last frame, in ticks.
    keys: frames from which decoding can start. ordered: frames are found by their place. size: rows and columns as
    shown, in square pixels. stored: rows and columns as they are decoded. content: a hash of the file's, or of its
    ends and length where it is not verified."""

    stamps: np.ndarray
    tick: float
    end: int
    keys: tuple[int, ...]
    ordered: bool
    size: tuple[int, int]
    stored: tuple[int, int]
    content: str = ""

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last one's end."""
        return (self.end - int(self.stamps[0])) * self.tick


def index(root: Path, entries: Sequence[Entry], pool: Pool, verify: bool) -> dict[str, Probe | str]:
    """What each entry holds, by name, or what is wrong with it.

    Files that are the same as before, by size and time of change, are not looked at again.
    """
    place = cache_place(root)
    known = _read_cache(place, verify)
    kept: dict[str, Any] = {}
    todo: list[tuple[Entry, str]] = []
    results: dict[str, Probe | str] = {}
    for entry in entries:
        try:
            mark = _mark(entry)
        except OSError as error:
            results[entry.name] = f"cannot be read: {error.strerror}"
            continue
        before = known.get(entry.name)
        found = _restored(before) if isinstance(before, dict) and before.get("mark") == mark else None
        if entry.gap:
            results[entry.name] = entry.gap
        elif found is not None:
            results[entry.name], kept[entry.name] = found, before
        else:
            todo.append((entry, mark))
    written = time.monotonic()
    for i in range(0, len(todo), CHUNK):
        jobs = [partial(_probed, entry, verify, pool) for entry, _ in todo[i : i + CHUNK]]
        for (entry, mark), (said, lasting) in zip(todo[i : i + CHUNK], pool.each(jobs), strict=True):
            record = {"mark": mark, **said}
            results[entry.name] = _restored(record) or "cannot be decoded"
            if lasting:
                kept[entry.name] = record
        if i + CHUNK >= len(todo) or time.monotonic() - written > EVERY:
            _write_cache(place, verify, {**known, **kept} if i + CHUNK < len(todo) else kept)
            written = time.monotonic()
    return {entry.name: results[entry.name] for entry in entries}


def cache_place(root: Path) -> Path:
    """Where a folder's index is kept: in the user's cache, never among the data."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "mutoscope" / "folders" / f"{key(os.path.abspath(root)):016x}.json"


def _probed(entry: Entry, verify: bool, pool: Pool) -> tuple[dict[str, Any], bool]:
    """What is found, or the damage; and whether it would be found again."""
    try:
        if entry.sha256 and _sha256(entry.paths[0]) != entry.sha256.lower():
            return {"damage": "its content is not that of its sha256"}, True
        with pool.child() as worker:
            found = _packed(worker.ask({"do": "probe", "paths": entry.paths, "verify": verify}))
        return {"found": found | {"content": _content(entry.paths, verify)}}, True
    except Broken as broken:
        return {"damage": str(broken)}, not broken.passing
    except OSError as error:
        return {"damage": f"cannot be read: {error.strerror}"}, False


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(paths: Sequence[str], whole: bool) -> str:
    """Changes when what files hold does, and with nothing else."""
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            digest.update(length.to_bytes(8))
            begins = range(0, length, 1 << 20) if whole else sorted({0, max(0, length - ENDS)})
            for begin in begins:
                file.seek(begin)
                digest.update(file.read(1 << 20 if whole else ENDS))
    return digest.hexdigest()


def _mark(entry: Entry) -> str:
    """Changes when a file does."""
    said = [entry.sha256]
    for path in entry.paths:
        status = os.stat(path)
        said.append(f"{os.path.basename(path)} {status.st_size} {status.st_mtime_ns}")
    return f"{key(*said):016x}"


def _packed(found: dict[str, Any]) -> dict[str, Any]:
    """Even stamps as first, step, count."""
    stamps = np.asarray(found["stamps"])
    steps = np.diff(stamps)
    if len(stamps) > 2 and (steps == steps[0]).all():
        found = found | {"stamps": {"first": int(stamps[0]), "step": int(steps[0]), "count": len(stamps)}}
    return found


def _restored(record: Any) -> Probe | str | None:
    """A record of the index as what it says; None where it says nothing that makes sense."""
    try:
        if "damage" in record:
            return str(record["damage"])
        found = record["found"]
        stamps = found["stamps"]
        if isinstance(stamps, dict):
            stamps = stamps["first"] + stamps["step"] * np.arange(stamps["count"])
        stamps = np.asarray(stamps, dtype=np.int64)
        (over, under), size, stored = found["tick"], found["size"], found["stored"]
        keys = tuple(int(k) for k in found["keys"])
        whole = len(stamps) and (np.diff(stamps) > 0).all() and min(*size, *stored) > 0 and found["end"] > stamps[-1]
        if not whole or not all(0 <= k < len(stamps) for k in keys):
            return None
        rows, columns = size
        return Probe(
            stamps, over / under, int(found["end"]), keys, bool(found["ordered"]), (int(rows), int(columns)),
            (int(stored[0]), int(stored[1])), str(found["content"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError):
        return None


def _head(verify: bool) -> dict[str, Any]:
    return {"format": FORMAT, "av": av.__version__, "verify": verify}


def _read_cache(place: Path, verify: bool) -> Mapping[str, Any]:
    """What was found before by the same means; nothing where there is no index that can be read."""
    try:
        said = json.loads(place.read_text(encoding="utf-8"))
        files = said.pop("files")
        return files if said == _head(verify) and isinstance(files, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write_cache(place: Path, verify: bool, files: Mapping[str, Any]) -> None:
    # Without a cache the folder is looked through again the next time.
    with suppress(WorkError, OSError):
        write_text(place, json.dumps({**_head(verify), "files": files}))
