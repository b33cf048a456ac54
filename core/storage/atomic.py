"""Atomic writes: a file or folder is there whole or not at all, whatever happens meanwhile.

The order is write, flush the file, rename, flush the folder.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mutoscope.core.errors import WorkError
from mutoscope.core.storage.failpoints import reach

TEMPORARY = ".tmp-"


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, making its folder if need be. Raises WorkError when the disk will not take it."""
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            reach("atomic.before_flush")
            os.fsync(file.fileno())
        reach("atomic.before_rename")
        os.replace(temporary, path)
        reach("atomic.after_rename")
        flush_folder(path.parent)
    except OSError as failed:
        _drop(temporary)
        raise WorkError(f"{path}: could not be written: {failed.strerror or failed}") from failed
    except BaseException:
        _drop(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes JSON; numbers that are not finite are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and is gone when it does not."""
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        flush_folder(temporary)
        reach("checkpoint.before_rename")
        _put(temporary, path)
        reach("checkpoint.after_rename")
        flush_folder(path.parent)
    except OSError as failed:
        _drop(temporary)
        raise WorkError(f"{path}: could not be written: {failed.strerror or failed}") from failed
    except BaseException:
        _drop(temporary)
        raise


def _put(temporary: Path, path: Path) -> None:
    """Renames a folder to its place; one that is there already, or that another process has just put there, goes."""
    for _ in range(8):
        try:
            os.rename(temporary, path)
            return
        except OSError as taken:
            if taken.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        aside = _temporary(path)
        with suppress(FileNotFoundError):
            os.rename(path, aside)
            _drop(aside)
    os.rename(temporary, path)


def _temporary(path: Path) -> Path:
    """A name of nobody's beside a path."""
    return path.with_name(f"{TEMPORARY}{path.name[:100]}-{uuid.uuid4().hex[:8]}")


def _drop(path: Path) -> None:
    """Deletes what an unfinished write left, as far as that can be done; never an error in place of the first one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder with those around it. Raises WorkError, in one line, where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as failed:
        raise WorkError(f"{path}: this folder cannot be made: {failed.strerror or failed}") from None


def flush_file(path: Path) -> None:
    """Asks the disk to keep a file's content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(path: Path) -> None:
    """Asks the disk to keep a folder's names."""
    flush_file(path)


def clean(folder: Path) -> int:
    """Deletes what interrupted writes left in a folder; gives how many. Call it with the folder's lock held."""
    left = list(folder.glob(f"{TEMPORARY}*")) if folder.is_dir() else []
    for path in left:
        _drop(path)
    return len(left)


def need_space(folder: Path, size: int) -> None:
    """Raises WorkError, naming bytes needed and free, where `size` bytes and a fifth more do not fit."""
    need, free = size + size // 5, shutil.disk_usage(folder).free
    if free < need:
        raise WorkError(f"{folder}: a checkpoint needs {need:,} bytes and {free:,} are free; make room and run again")
