"""Failpoints: named places at which a test can make a fault happen. Inert and almost free otherwise.

`MUTOSCOPE_FAULT=checkpoint.before_rename@2:kill` kills the process the second time that the point is reached.
"""

from __future__ import annotations

import errno
import os
import signal
import time

POINTS = (
    "atomic.before_flush",
    "atomic.before_rename",
    "atomic.after_rename",
    "checkpoint.between_files",
    "checkpoint.before_manifest",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
    "prune.before_delete",
    "journal.in_line",
    "journal.after_line",
    "step.begin",
    "phase.finish",
    "data.load",
    "sample.begin",
    "evaluate.begin",
)
FAULTS = ("kill", "raise", "enospc", "eio", "sleep")


def _armed() -> tuple[str, int, str] | None:
    said = os.environ.get("MUTOSCOPE_FAULT", "")
    if not said:
        return None
    place, _, fault = said.partition(":")
    point, _, count = place.partition("@")
    if point not in POINTS or fault not in FAULTS:
        raise ValueError(f"MUTOSCOPE_FAULT={said!r}: points are {', '.join(POINTS)}; faults are {', '.join(FAULTS)}")
    return point, int(count or 1), fault


_ARMED = _armed()
_reached = 0


def reach(point: str) -> None:
    """Marks a place; does what the environment asks for there."""
    if _ARMED is None or _ARMED[0] != point:
        return
    global _reached
    _reached += 1
    if _reached != _ARMED[1]:
        return
    match _ARMED[2]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise RuntimeError(f"fault at {point}")
        case "enospc":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "eio":
            raise OSError(errno.EIO, "Input/output error")
        case "sleep":
            time.sleep(3600)
