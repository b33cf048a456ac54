"""What lies in a data folder: videos, images and folders of frames, with what is said of them, and their splits."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutoscope.core.errors import DataError, nearest, shown
from mutoscope.core.randomness import key

VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SPLITS = {
    "train": "train", "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test",
}  # fmt: skip
"""Names of splits, and what else a subfolder or the metadata may call them."""
METADATA = ("metadata.jsonl", "metadata.csv")
FIELDS = ("file_name", "caption", "label", "actions", "split", "sha256")
NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class Entry:
    """One clip-to-be. name: its path in the folder, with slashes. paths: its file, or its frames in order.
    gap: what is wrong with a folder of frames already by its names. sha256: of the file, where it is known."""

    name: str
    paths: tuple[str, ...]
    split: str = "train"
    caption: str | None = None
    label: int | str | None = None
    actions: tuple[int, ...] | None = None
    gap: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Line:
    """What a line of metadata says of a file. place: `FILE:LINE`, for errors."""

    place: str
    said: Mapping[str, Any] = field(default_factory=dict)


def list_folder(root: Path, numbered_clips: bool, held: tuple[float, float]) -> list[Entry]:
    """The entries of a folder, by name. Raises DataError on metadata that cannot be used.

    numbered_clips: a folder of numbered images is one clip. held: shares of the validation and test splits, where
    neither subfolders nor metadata tell the splits.
    """
    found = dict(sorted(_found(root, numbered_clips)))
    lines = _metadata(root)
    for name, line in lines.items():
        if name not in found:
            raise DataError(f'{line.place}: there is no file "{name}"{nearest(name, found)}')
    told = {name: _told_split(name, lines.get(name)) for name in found}
    apart = any(told.values())
    entries = []
    for name, (paths, gap) in found.items():
        said = lines[name].said if name in lines else {}
        split = told[name] or ("train" if apart else share_of(name, held))
        caption = said.get("caption")
        if caption is None:
            caption = _sidecar(root / name)
        entries.append(
            Entry(name, paths, split, caption, said.get("label"), said.get("actions"), gap, said.get("sha256", ""))
        )
    _check_all_or_none(entries, lines)
    return entries


def share_of(name: str, held: tuple[float, float]) -> str:
    """The split of a file by its name alone: a hash of it falls evenly on [0, 1), of which validation takes the first
    share, test the next, and training the rest."""
    place = key("split", name) / 2.0**63
    return "validation" if place < held[0] else "test" if place < held[0] + held[1] else "train"


# Files


def _found(root: Path, numbered_clips: bool) -> Iterator[tuple[str, tuple[tuple[str, ...], str]]]:
    """(name, (paths, what is wrong with them)) of videos, images and folders of frames; hidden ones are left out."""

    def failed(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, inner, files in os.walk(root, onerror=failed):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        here = Path(folder)
        files = sorted(name for name in files if not name.startswith("."))
        pictures = [name for name in files if name.lower().endswith(IMAGES)]
        within = here.relative_to(root).as_posix()
        if numbered_clips and within != "." and within not in SPLITS and (frames := _frames(pictures)):
            yield within, (tuple(str(here / name) for name in frames[0]), frames[1])
            pictures = []
        for name in [*(n for n in files if n.lower().endswith(VIDEOS)), *pictures]:
            yield (here / name).relative_to(root).as_posix(), ((str(here / name),), "")


def _frames(names: list[str]) -> tuple[list[str], str] | None:
    """Images in the order of their numbers, and which is missing; None where they are not the frames of a clip.

    They are when all names differ in their last number alone, and these fill at least half of their range.
    """
    found = [(NUMBERED.fullmatch(stem), suffix, name) for name in names for stem, suffix in [os.path.splitext(name)]]
    if len(found) < 2 or any(match is None for match, _, _ in found):
        return None
    kinds = {(match[1], suffix.lower()) for match, suffix, _ in found if match}
    order = sorted((int(match[2]), name) for match, _, name in found if match)
    numbers = [number for number, _ in order]
    if len(kinds) > 1 or len(set(numbers)) < len(numbers) or 2 * len(numbers) < numbers[-1] - numbers[0] + 1:
        return None
    missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
    return [name for _, name in order], f"frame {missing[0]} is missing" if missing else ""


def _sidecar(path: Path) -> str | None:
    """The text beside a.mp4, or beside a folder a of frames: a.txt."""
    beside = path.with_suffix(".txt") if path.suffix.lower() in VIDEOS + IMAGES else path.with_name(path.name + ".txt")
    try:
        return " ".join(beside.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise DataError(f"{beside}: is not a text in UTF-8") from None
    except OSError as error:
        raise DataError(f"{beside}: cannot be read: {error.strerror}") from None


# Metadata


def _metadata(root: Path) -> dict[str, Line]:
    """What is said of files, by name: by metadata in the folder itself, or in the subfolder of a split."""
    lines: dict[str, Line] = {}
    for folder in (root, *(root / name for name in SPLITS)):
        there = [folder / name for name in METADATA if (folder / name).is_file()]
        if len(there) > 1:
            raise DataError(f"{folder}: holds both {METADATA[0]} and {METADATA[1]}; keep one")
        for path in there:
            within = folder.relative_to(root).as_posix()
            for number, said in _rows(path):
                place = f"{path}:{number}"
                line = Line(place, _checked(place, said))
                name = _name(place, said["file_name"], within)
                if name in lines:
                    raise DataError(f"{place}: {name} is named before, in {lines[name].place}")
                lines[name] = line
    return lines


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, what it says) of a metadata file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: is not a text in UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    said = str(error).partition(": line")[0] or type(error).__name__
                    raise DataError(f"{path}:{number}: is not JSON: {said}") from None
        return
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = next(rows, [])
        if "file_name" not in header:
            raise DataError(f"{path}:1: has no column file_name; got {shown(header)}")
        for row in rows:
            if len(row) not in (0, len(header)):
                raise DataError(f"{path}:{rows.line_num}: has {len(row)} values for {len(header)} columns")
            if row:
                yield rows.line_num, _from_csv(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: is not CSV: {error}") from None


def _from_csv(row: dict[str, str]) -> dict[str, Any]:
    """Empty cells say nothing; a label of digits is a number; actions are numbers with spaces between."""
    said: dict[str, Any] = {name: value for name, value in row.items() if value != "" or name == "file_name"}
    if said.get("label", "").isdecimal():
        said["label"] = int(said["label"])
    if "actions" in said:
        words = said["actions"].split()
        said["actions"] = [int(word) if word.isdecimal() else word for word in words]
    return said


def _checked(place: str, said: Any) -> dict[str, Any]:
    """What a line says that is of use here; other fields are left alone. Raises DataError."""
    if not isinstance(said, dict):
        raise DataError(f"{place}: must be an object with file_name; got {shown(said)}")
    if "file_name" not in said:
        near = nearest("file_name", said) if said else ""
        raise DataError(f"{place}: has no file_name{near}")
    for name in ("file_name", "caption", "split", "sha256"):
        if said.get(name) is not None and not isinstance(said[name], str):
            raise DataError(f"{place}: {name} must be a text; got {shown(said[name])}")
    label, actions, split = said.get("label"), said.get("actions"), said.get("split")
    if label is not None and not isinstance(label, str) and not _natural(label):
        raise DataError(f"{place}: label must be a whole number of at least 0, or a text; got {shown(label)}")
    if actions is not None and (not isinstance(actions, list) or not all(map(_natural, actions))):
        raise DataError(f"{place}: actions must be whole numbers of at least 0, one per frame; got {shown(actions)}")
    if split is not None and split not in SPLITS:
        raise DataError(f"{place}: unknown split; got {shown(split)}{nearest(split, SPLITS)}")
    kept = {name: said[name] for name in FIELDS if said.get(name) is not None}
    if actions is not None:
        kept["actions"] = tuple(actions)
    if "caption" in kept:
        kept["caption"] = " ".join(kept["caption"].split())
    return kept


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _name(place: str, said: str, within: str) -> str:
    """A file's name from the folder on. Raises DataError on one that leads out of it."""
    parts = said.replace("\\", "/").split("/")
    if not said or said.startswith("/") or ".." in parts or "\0" in said or re.match(r"[A-Za-z]:", said):
        raise DataError(f"{place}: file_name must be a path within the folder; got {shown(said)}")
    inner = [part for part in parts if part not in ("", ".")]
    return "/".join(inner if within == "." else [within, *inner])


def _told_split(name: str, line: Line | None) -> str:
    """The split by metadata or subfolder; empty where neither tells."""
    if line is not None and "split" in line.said:
        return SPLITS[line.said["split"]]
    first, inner, _ = name.partition("/")
    return SPLITS.get(first, "") if inner else ""


def _check_all_or_none(entries: list[Entry], lines: Mapping[str, Line]) -> None:
    """Labels and actions are there for every file or for none, and labels are all numbers or all texts."""
    for word in ("label", "actions"):
        having = [entry for entry in entries if getattr(entry, word) is not None]
        lacking = next((entry for entry in entries if getattr(entry, word) is None), None)
        if having and lacking is not None:
            example = lines[having[0].name].place
            raise DataError(f"{lacking.name} has no {word}, and others have one ({example}); give it to all or none")
    kinds = {type(entry.label): entry for entry in entries if entry.label is not None}
    if len(kinds) > 1:
        places = " and ".join(lines[entry.name].place for entry in kinds.values())
        raise DataError(f"{places}: labels must be all numbers or all texts")
