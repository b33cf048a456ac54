"""Failpoints: named places at which a test can make a fault happen. Inert and almost free otherwise.

`MUTOSCOPE_FAULT=checkpoint.before_rename@2:kill` kills the process the second time that the point is reached; `@2+` is
the second time and every later one. `sleep=3` sleeps three seconds.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

POINTS = (
    # Files: written, not yet flushed; flushed, not yet renamed; renamed, the folder not yet flushed.
    "atomic.before_flush",
    "atomic.before_rename",
    "atomic.after_rename",
    # Checkpoints.
    "checkpoint.before_flush",
    "checkpoint.between_files",
    "checkpoint.before_manifest",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
    "prune.before_delete",
    "prune.in_delete",
    # The journal.
    "journal.in_line",
    "journal.after_line",
    # Training.
    "phase.begin",
    "step.begin",
    "step.forward",
    "step.end",
    "phase.finish",
    "phase.kept",
    # Data.
    "data.load",
    "data.cache",
    # Evaluation and sampling.
    "evaluate.begin",
    "evaluate.sampled",
    "evaluate.scored",
    "sample.begin",
    "sample.made",
    "sample.written",
)
VALUES = ("data.video", "data.latents", "step.loss", "step.gradient")
"""Places that a tensor passes, which the fault `nan` spoils."""
FAULTS = ("kill", "raise", "enospc", "eio", "memory", "sleep", "nan")
SAID = re.compile(
    r"(?P<point>[a-z_.]+)(?:@(?P<count>[1-9][0-9]*)(?P<on>\+?))?:(?P<fault>[a-z]+)(?:=(?P<more>[0-9.]+))?"
)


class Fault:
    """One fault at one point. counted: how often each point was reached."""

    def __init__(self, said: str) -> None:
        match = SAID.fullmatch(said)
        if match is None or match["point"] not in POINTS + VALUES or match["fault"] not in FAULTS:
            known = f"points are {', '.join(POINTS + VALUES)}; faults are {', '.join(FAULTS)}"
            raise ValueError(f"MUTOSCOPE_FAULT={said!r}: must be POINT@COUNT:FAULT; {known}")
        self.point, self.fault, self.seconds = match["point"], match["fault"], float(match["more"] or 3600)
        self.count, self.on = int(match["count"] or 1), bool(match["on"])
        self.reached = 0

    def due(self, point: str) -> bool:
        if point != self.point:
            return False
        self.reached += 1
        return self.reached == self.count or (self.on and self.reached > self.count)

    def strike(self) -> None:
        match self.fault:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise RuntimeError(f"fault at {self.point}")
            case "enospc":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "eio":
                raise OSError(errno.EIO, "Input/output error")
            case "memory":
                raise MemoryError(f"fault at {self.point}")
            case "sleep":
                time.sleep(self.seconds)


def arm(said: str) -> None:
    """Sets the fault of this process, or with an empty text none. Raises ValueError on a point that there is not."""
    global _armed
    _armed = Fault(said) if said else None


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts how often each point is reached in the block."""
    global _counter
    _counter = Counter()
    try:
        yield _counter
    finally:
        _counter = None


def reach(point: str) -> None:
    """Marks a place; does what the environment asks for there."""
    if _armed is None and _counter is None:
        return
    if _counter is not None:
        _counter[point] += 1
    if _armed is not None and _armed.due(point):
        _armed.strike()


def spoiled(point: str, values: Tensor) -> Tensor:
    """The same tensor; with its first value not a number where the environment asks for it."""
    if _armed is None and _counter is None:
        return values
    if _counter is not None:
        _counter[point] += 1
    if _armed is None or not _armed.due(point):
        return values
    spoilt = values.clone()
    spoilt.view(-1)[:1] = float("nan")
    return spoilt


_armed: Fault | None = None
_counter: Counter[str] | None = None
arm(os.environ.get("MUTOSCOPE_FAULT", ""))
