"""A generator of recipes that pairs parts with parts, small, drawn from the catalogue; it knows no family.

A row says one option for every role. Assembly is the judge of what fits: a row is built role by role, and left as soon
as what stands so far is refused, so that a search among millions of rows takes seconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from mutoscope.core.component import Component
from mutoscope.registry.assembly import attempt
from mutoscope.registry.building import Findings
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import settings_of
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.wording import plain

ROLES = ("data", "autoencoder", "patchifier", "conditioner", "objective", "denoiser", "sampler")
NONE = "none"
"""The option of a conditioner that is not there."""
TRAINING = {"batch": 2, "lr": 1e-3, "phases": [{"learn": "denoiser", "steps": 1}]}
CLIPS = {"odd": (5, 16, 16), "even": (4, 16, 16), "small": (4, 8, 8), "large": (4, 32, 32), "still": (1, 16, 16)}
"""Frames, rows, columns of the data: autoencoders and generators differ in what they fit."""
MORE: dict[str, dict[str, dict[str, Any]]] = {
    "patchifier": {"spacetime_cells": {"type": "spacetime", "size": [1, 1, 1]}, "navit_cells": {"type": "navit", "size": [1, 1, 1]}},
    "objective": {"variational_bits": {"type": "variational", "chain": "binomial"}},
}  # fmt: skip
"""Options beside every part's own `tiny`: settings without which another part would never fit."""

Row = Mapping[str, str]
Pair = frozenset[tuple[str, str]]


def pairs_of(row: Row) -> set[Pair]:
    """The pairs of options that a row tries together; clips of one dataset count as the dataset."""
    said = [(role, word.partition(":")[0]) for role, word in row.items()]
    return {frozenset(pair) for pair in combinations(said, 2)}


class Pairings:
    """Rows of options, and their recipes."""

    def __init__(self, catalog: Catalog, seed: int = 0) -> None:
        self.catalog, self.seed = catalog, seed
        self.hosted: dict[str, Any] = {}
        self.judged: dict[tuple[str, ...], bool] = {}
        self.options = {role: self._options(role) for role in ROLES}

    def _options(self, role: str) -> dict[str, Any]:
        if role == "data":
            return {
                f"{name}:{word}": {**self._small("data", name), "clips": 16, "frames": frames, "size": [rows, columns]}
                for name in ("shapes", "noise")
                for word, (frames, rows, columns) in CLIPS.items()
            }
        found: dict[str, Any] = {name: self._small(role, name) for name in self.catalog.classes(role)}
        return {**found, **MORE.get(role, {}), **({NONE: None} if role == "conditioner" else {})}

    def _small(self, role: str, name: str) -> dict[str, Any]:
        part = self._part(role, name)
        few = {"steps": 2} if role == "sampler" and "steps" in {s.name for s in settings_of(part)} else {}
        return {"type": name, **few, **{key: plain(value) for key, value in part.tiny.items()}}

    def _part(self, role: str, name: str) -> type[Component]:
        part = self.catalog.find(role, name)
        assert part is not None, f"{role} {name}"
        return part

    def recipe(self, row: Row) -> Recipe:
        """The recipe of a row, or of its beginning, which then trains nothing."""
        said = {role: self.options[role][word] for role, word in row.items() if word != NONE}
        return Recipe.of({**said, **({"training": TRAINING} if len(row) == len(ROLES) else {})})

    def findings(self, row: Row) -> Findings:
        """What assembly has against a row."""
        return attempt(self.recipe(row), self.catalog, self.hosted)

    def fits(self, row: Row) -> bool:
        """Whether assembly has nothing against a row, or the beginning of one, as far as it goes."""
        words = tuple(row.values())
        if words not in self.judged:
            found = self.findings(row)
            said = [path for path, _, _ in found.problems if path[0] in row] + [m.path for m in found.mismatches]
            self.judged[words] = not said
        return self.judged[words]

    # Rows that fit

    def legal(self, wanted: Row, covered: set[Pair], chance: random.Random, most: int = 400) -> dict[str, str] | None:
        """A row with what is wanted that fits, of new pairs by preference; None where `most` attempts find none."""
        left = [most]

        def grown(row: dict[str, str]) -> dict[str, str] | None:
            if len(row) == len(ROLES):
                return row
            role = ROLES[len(row)]
            for word in self._ordered(role, row, wanted, covered, chance):
                longer = {**row, role: word}
                left[0] -= tuple(longer.values()) not in self.judged
                if left[0] < 0:
                    return None
                if self.fits(longer) and (found := grown(longer)) is not None:
                    return found
            return None

        return grown({})

    def _ordered(self, role: str, row: Row, wanted: Row, covered: set[Pair], chance: random.Random) -> list[str]:
        words = [w for w in self.options[role] if wanted.get(role) in (None, w, w.partition(":")[0])]
        words = [word for word in words if self._meets(role, word, {**wanted, **row})]
        chance.shuffle(words)
        return sorted(words, key=lambda word: -len(pairs_of({**row, role: word}) - covered))

    def _meets(self, role: str, word: str, known: Row) -> bool:
        """Whether a part accepts the denoiser that is known or wanted, and the denoiser those that are."""
        known = {**known, role: word}
        denoiser = self._class("denoiser", known)
        for other in ("objective", "sampler"):
            part: Any = self._class(other, known)
            if part is not None and denoiser is not None and not issubclass(denoiser, part.accepts):
                return False
            if other == "objective" and part is not None and part.learns != "denoiser":
                return False
        return True

    def _class(self, role: str, row: Row) -> type[Component] | None:
        option = self.options[role][row[role]] if role in row else None
        return self._part(role, option["type"]) if option else None

    def each(self) -> Iterator[dict[str, str]]:
        """Rows that fit, until every option that ever fits has been in one: few, for every day."""
        chance, covered, seen = random.Random(self.seed), set[Pair](), set[tuple[str, str]]()
        for role in sorted(ROLES, key=lambda role: -len(self.options[role])):
            for word in self._words(role):
                if (role, word) in seen:
                    continue
                row = self.legal({role: word}, covered, chance)
                if row is not None:
                    covered |= pairs_of(row)
                    seen |= {(r, w.partition(":")[0]) for r, w in row.items()}
                    yield row

    def all_pairs(self) -> Iterator[dict[str, str]]:
        """Rows that fit, until every pair of options that fits has been in one."""
        chance, covered = random.Random(self.seed), set[Pair]()
        for one, other in combinations(ROLES, 2):
            for a in self._words(one):
                for b in self._words(other):
                    if frozenset({(one, a), (other, b)}) in covered or not self._meets(other, b, {one: a}):
                        continue
                    row = self.legal({one: a, other: b}, covered, chance)
                    if row is not None:
                        covered |= pairs_of(row)
                        yield row

    # Rows at large

    def any_pairs(self, most: int | None = None) -> Iterator[dict[str, str]]:
        """Rows, whether they fit or not, until every pair of options has been in one; greedily, so about as few as
        the two longest roles have pairs."""
        chance = random.Random(self.seed)
        left = {
            frozenset({(one, a), (other, b)})
            for one, other in combinations(ROLES, 2)
            for a in self._words(one)
            for b in self._words(other)
        }
        made = 0
        while left and (most is None or made < most):
            begun = min(left, key=sorted) if made % 2 else max(left, key=sorted)
            row: dict[str, str] = {}
            for role in sorted(ROLES, key=lambda role: role not in dict(begun)):
                words = [dict(begun)[role]] if role in dict(begun) else self._words(role)
                chance.shuffle(words)
                row[role] = max(words, key=lambda word: len(pairs_of({**row, role: word}) & left))
            left -= pairs_of(row)
            made += 1
            yield {role: f"{row[role]}:{chance.choice(list(CLIPS))}" if role == "data" else row[role] for role in ROLES}

    def _words(self, role: str) -> list[str]:
        return list(dict.fromkeys(word.partition(":")[0] for word in self.options[role]))
