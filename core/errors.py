"""Errors that a user sees: one line each, and the exit code that goes with it. Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class MutoscopeError(Exception):
    """An error that is told in one line, without a traceback."""

    exit_code: ClassVar[int] = 1


class WorkError(MutoscopeError):
    """The work failed."""

    exit_code = 1


class InputError(MutoscopeError):
    """The input is wrong: `file:line: field: problem; got X; allowed: ...; did you mean "Y"?`.

    message: the whole line, or `problem` with whichever of the other fields are known.
    """

    exit_code = 2

    def __init__(
        self,
        message: str = "",
        *,
        file: object | None = None,
        line: int | None = None,
        field: str | None = None,
        problem: str = "",
        got: Any = None,
        allowed: Iterable[object] | str | None = None,
    ) -> None:
        self.file, self.line, self.field, self.problem, self.got = file, line, field, problem or message, got
        self.allowed = allowed if allowed is None or isinstance(allowed, str) else tuple(map(str, allowed))
        super().__init__(self._told())

    def _told(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else str(self.file or "")
        said = ": ".join(word for word in (place, self.field, self.problem) if word)
        if self.got is not None:
            said += f"; got {shown(self.got)}"
        if isinstance(self.allowed, str):
            said += f"; allowed: {self.allowed}"
        elif self.allowed:
            suggestion = nearest(str(self.got), self.allowed)
            said += suggestion or f"; allowed: {', '.join(self.allowed[:12])}"
        return said


class RunInUse(MutoscopeError):
    """Another process works in the run folder."""

    exit_code = 3


class DataError(MutoscopeError):
    """The data is unusable: all files bad, none left, zero batches."""

    exit_code = 4


class Interrupted(MutoscopeError):
    """Stopped on request at a safe point; the same command continues."""

    exit_code = 75


class ShapeError(ValueError):
    """A tensor of a size that a part cannot take; a mistake of the caller's code, not of a recipe."""


def nearest(word: str, allowed: Iterable[object]) -> str:
    """`; did you mean "x"?` for the allowed word that is closest, or nothing when none is close."""
    words = {str(a).lower(): str(a) for a in allowed}
    close = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.5)
    return f'; did you mean "{words[close[0]]}"?' if close else ""


def shown(value: Any, most: int = 60) -> str:
    """A value on one line, shortened."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= most else text[: most - 3] + "..."
