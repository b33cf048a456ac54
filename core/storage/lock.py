"""The lock of a run folder: one process works in it; the system releases it when that process ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from mutoscope.core.errors import RunInUse


class RunLock:
    """An exclusive lock on a folder, held in a `with` block. Raises RunInUse at once, naming who holds it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self.handle: int | None = None

    def __enter__(self) -> RunLock:
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(self.handle)
            os.close(self.handle)
            self.handle = None
            raise RunInUse(f"{self.path.parent} is in use by {holder}; wait for it, or choose another folder") from None
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        return self

    def __exit__(self, *error: object) -> None:
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


def holder(folder: Path) -> str | None:
    """Who works in a folder, in words; None when nobody does. Takes no lock for longer than it looks."""
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        return _holder(handle)
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    try:
        said = json.loads(os.pread(handle, 4096, 0))
        return f"process {said['pid']} on {said['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
