"""The lock of a run folder: one process works in it; the system releases it when that process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from mutoscope.core.errors import RunInUse, WorkError


class RunLock:
    """An exclusive lock on a folder, held in a `with` block. Raises RunInUse at once, naming who holds it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self.handle: int | None = None

    def __enter__(self) -> RunLock:
        try:
            self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as failed:
            if failed.errno not in (errno.EROFS, errno.EACCES) or not self.path.parent.is_dir():
                raise WorkError(f"{self.path.parent}: cannot be locked: {failed.strerror}") from None
            return self  # nobody writes into a folder that cannot be written to
        if not self._taken(self.handle):
            holder = _holder(self.handle)
            os.close(self.handle)
            self.handle = None
            raise RunInUse(f"{self.path.parent} is in use by {holder}; wait for it, or choose another folder")
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        return self

    def _taken(self, handle: int) -> bool:
        """Tries for a moment, since whoever only looks (`holder`) has the lock for an instant."""
        for wait in (0.0, 0.02, 0.05):
            time.sleep(wait)
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        return False

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
    """What the lock's file says; a moment later, where whoever took it has not written yet."""
    for wait in (0.0, 0.02, 0.1):
        time.sleep(wait)
        with suppress(ValueError, KeyError, TypeError):
            said = json.loads(os.pread(handle, 4096, 0))
            return f"process {said['pid']} on {said['host']}"
    return "another process"
