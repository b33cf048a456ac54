"""Parts that do not fit: what is recorded of them, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mutoscope.core.component import Facts
from mutoscope.core.facts import (
    ClassifierFact,
    ClipFact,
    ConditioningFact,
    EarlierFact,
    FeatureFact,
    FieldFact,
    LatentFact,
    Need,
    TokenFact,
)
from mutoscope.core.process import Process

Path = tuple[str | int, ...]
"""Where something stands in a recipe: `("stages", 0, "denoiser")`."""

PUBLISHERS: dict[type, str] = {
    ClipFact: "data",
    LatentFact: "autoencoder",
    TokenFact: "patchifier",
    ConditioningFact: "conditioner",
    Process: "objective",
    FieldFact: "owner",
    FeatureFact: "tower",
    ClassifierFact: "tower",
    EarlierFact: "stage",
}
"""The role that publishes each kind of fact; `owner` lends it to nested parts, `stage` is the one before."""

WORDS = {
    "codebook": "codebook",
    "packed": "packed rows",
    "mixed": "clips of mixed sizes",
    "decodes": "latents that can be decoded",
    "causal": "causal latents",
    "classes": "class labels",
    "actions": "actions",
    "captions": "captions",
    "pooled": "vector per clip",
    "sequence": "prompt features",
    "vocabulary": "prompt ids",
    "per_frame": "vector per frame",
    "cells": "channels beside the latents",
    "known": "known tokens",
}


@dataclass(frozen=True)
class Published:
    """A fact, and the place of the part that published it; an empty place where no part did."""

    fact: Any
    path: Path


class Ledger:
    """Facts in the order in which they were published, and who published them.

    absent: roles whose part could not be built, so that what they would have published is not held against others.
    """

    def __init__(self, entries: Iterable[Published] = (), absent: Iterable[str] = ()) -> None:
        self.entries = tuple(entries)
        self.absent = frozenset(absent)

    def publish(self, facts: Iterable[Any], path: Path) -> Ledger:
        """The ledger with more facts."""
        return Ledger((*self.entries, *(Published(fact, path) for fact in facts)), self.absent)

    def without(self, role: str) -> Ledger:
        """The ledger with one more role absent."""
        return Ledger(self.entries, self.absent | {role})

    def find(self, kind: type) -> Published | None:
        """The latest fact of a kind."""
        return next((entry for entry in reversed(self.entries) if isinstance(entry.fact, kind)), None)

    def excused(self, kind: type) -> bool:
        """Whether a fact of this kind may be lacking only because its publisher could not be built."""
        role = next((role for fact, role in PUBLISHERS.items() if issubclass(kind, fact)), None)
        return bool(self.absent) if role is None else role in self.absent

    def origin(self, found: Published, fields: Iterable[str]) -> Path:
        """Where the values of some fields of a fact come from: the first part that published a fact with the same."""
        names = tuple(fields)
        wanted = [getattr(found.fact, name) for name in names]
        for entry in self.entries if names else ():
            has = all(hasattr(entry.fact, name) for name in names)
            if entry.path and has and [getattr(entry.fact, name) for name in names] == wanted:
                return entry.path
        return found.path

    @property
    def facts(self) -> Facts:
        return Facts(entry.fact for entry in self.entries)


@dataclass(frozen=True)
class Mismatch:
    """Two parts that do not fit.

    path: of the part that needs something. need: what, as an identity between assemblies of similar recipes. says: the
    sentence for the user. involved: places of the parts of which another one might fit, likeliest first.
    """

    path: Path
    need: str
    says: str
    involved: tuple[Path, ...]

    @property
    def identity(self) -> tuple[Path, str]:
        return self.path, self.need


def holds(need: Need, fact: Any) -> tuple[bool, tuple[str, ...]]:
    """Whether a fact meets a need, and the fields that the need looked at."""
    watched = _Watched(fact)
    met = bool(need.holds(watched))
    return met, tuple(dict.fromkeys(watched.__dict__["seen"]))


def gives(fact: Any, fields: Iterable[str]) -> str:
    """What a fact says of some of its fields: `a codebook of 512`, `no prompt features`."""
    said = [_said(name, getattr(fact, name)) for name in fields]
    return " and ".join(said) if said else type(fact).__name__


def kind_of(process: Process) -> str:
    """The family of a process: the name of the class right under Process."""
    return next((c.__name__ for c in type(process).__mro__ if Process in c.__bases__), type(process).__name__)


def _said(name: str, value: Any) -> str:
    words = WORDS.get(name, name.replace("_", " "))
    if value is None or value is False or (isinstance(value, int) and value == 0):
        return f"no {words}"
    if value is True:
        return words
    if name == "codebook":
        return f"a codebook of {value}"
    return f"{words} {value}" if name not in WORDS else f"{words} ({value})"


class _Watched:
    """A fact that remembers which of its fields were read."""

    def __init__(self, fact: Any) -> None:
        self.__dict__.update(fact=fact, seen=[])

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["fact"], name)
        self.__dict__["seen"].append(name)
        return value
