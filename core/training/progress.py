"""Progress of long work: a bar with rate, loss and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO


class Progress(Protocol):
    """What a long verb tells while it works."""

    def begin(self, name: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, said: Mapping[str, float] | None = None) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...


class Silence:
    """Says nothing."""

    def begin(self, name: str, total: int, done: int = 0) -> None:
        pass

    def advance(self, done: int, said: Mapping[str, float] | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def end(self) -> None:
        pass


class Lines:
    """One line every `every` seconds, with rate and time left: for logs."""

    def __init__(self, every: float = 15.0, stream: TextIO | None = None) -> None:
        self.every, self.stream = every, stream or sys.stderr
        self.name, self.total, self.first = "", 0, 0
        self.started = self.told = 0.0

    def begin(self, name: str, total: int, done: int = 0) -> None:
        self.name, self.total, self.first = name, total, done
        self.started = self.told = time.monotonic()
        self.note(f"{name}: {total - done} to do")

    def advance(self, done: int, said: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        if now - self.told < self.every and done < self.total:
            return
        self.told = now
        rate = (done - self.first) / max(now - self.started, 1e-9)
        left = (self.total - done) / rate if rate else 0.0
        words = " ".join(f"{name} {value:.4g}" for name, value in (said or {}).items())
        self.note(f"{self.name}: {done}/{self.total} {rate:.2f}/s {words} {left:.0f} s left")

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def end(self) -> None:
        pass


class Bar:
    """A live bar by rich, on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task = None
        self.first, self.started = 0, 0.0

    def begin(self, name: str, total: int, done: int = 0) -> None:
        self.end()
        self.rich.start()
        self.first, self.started = done, time.monotonic()
        self.task = self.rich.add_task(name, total=total, completed=done, said="")

    def advance(self, done: int, said: Mapping[str, float] | None = None) -> None:
        if self.task is None:
            return
        rate = (done - self.first) / max(time.monotonic() - self.started, 1e-9)
        words = " ".join([f"{rate:.1f}/s", *(f"{name} {value:.4g}" for name, value in (said or {}).items())])
        self.rich.update(self.task, completed=done, **({"said": words} if said else {}))

    def note(self, text: str) -> None:
        self.rich.console.print(text, highlight=False)

    def end(self) -> None:
        if self.task is not None:
            self.rich.stop()
            self.rich.remove_task(self.task)
            self.task = None


def progress() -> Progress:
    """A bar on a terminal, plain lines elsewhere."""
    return Bar() if sys.stderr.isatty() else Lines()
