"""A generator of recipes that pairs parts with parts, small, drawn from the catalogue; it knows no family.

A row says one option for every role. Assembly is the judge of what fits: of every row that it refuses, the options that
its findings name are remembered as not fitting together, so that a search among millions of rows takes seconds.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations, product
from typing import Any

from mutoscope.core.component import Component
from mutoscope.registry.assembly import attempt
from mutoscope.registry.building import Findings
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import settings_of
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.wording import plain

ROLES = ("data", "autoencoder", "patchifier", "conditioner", "objective", "denoiser", "sampler")
SEARCHED = ("denoiser", "objective", "sampler", "autoencoder", "patchifier", "data", "conditioner")
"""The same, in the order in which a row is thought of: what decides most comes first."""
VIDEO = ROLES[:3]
"""From video to tokens."""
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
PLAIN = (
    {"data": "shapes:odd", "autoencoder": "identity", "patchifier": "spacetime_cells"},
    {"data": "shapes:still", "autoencoder": "identity", "patchifier": "spacetime_cells"},
    {"data": "shapes:large", "autoencoder": "identity", "patchifier": "spacetime_cells"},
)
"""Where an option is looked for that fits nowhere else: pixels, one by one."""
BESIDE = {"classifier_guided": {"tower": "adm_classifier"}, "blended": {"writer": "captioner"}}
"""What an option needs in the recipe besides the roles of a row."""

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
        self.refused: set[frozenset[tuple[str, str]]] = set()
        self.options = {role: self._options(role) for role in ROLES}
        for words in product(*(self.options[role] for role in VIDEO)):  # cheap, and most of what never fits
            self.refused.update(self.blamed(dict(zip(VIDEO, words, strict=True))))

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
        """The recipe of a row, or of some of its parts, which then train nothing."""
        said = {role: self.options[role][word] for role, word in row.items() if word != NONE}
        for word in set(BESIDE) & set(row.values()):
            said |= {role: self._small(role, name) for role, name in BESIDE[word].items()}
        return Recipe.of({**said, **({"training": TRAINING} if "denoiser" in row else {})})

    def findings(self, row: Row) -> Findings:
        """What assembly has against a row."""
        return attempt(self.recipe(row), self.catalog, self.hosted)

    # Rows that fit

    def legal(self, wanted: Row, covered: set[Pair], chance: random.Random, most: int = 24) -> dict[str, str] | None:
        """A row with what is wanted that fits, of new pairs by preference; None where `most` attempts find none."""
        left = [most]

        def grown(row: dict[str, str]) -> dict[str, str] | None:
            if len(row) == len(ROLES):
                left[0] -= 1
                row = {role: row[role] for role in ROLES}
                blamed = self.blamed(row)
                self.refused.update(blamed)
                return None if blamed else row
            role = SEARCHED[len(row)]
            words = [word for word in self.options[role] if wanted.get(role) in (None, word, word.partition(":")[0])]
            chance.shuffle(words)
            for word in sorted(words, key=lambda word: -len(pairs_of({**row, role: word}) - covered)):
                longer = {**row, role: word}
                if left[0] > 0 and not self._hopeless({**wanted, **longer}) and (found := grown(longer)) is not None:
                    return found
                if self._hopeless(row):
                    return None
            return None

        return grown({})

    def blamed(self, row: Row) -> set[frozenset[tuple[str, str]]]:
        """The options that do not fit together, in each finding that assembly has; none where the row fits."""
        found = self.findings(row)
        places = [{str(place[0]) for place in mismatch.involved} for mismatch in found.mismatches]
        places = [roles - {"data"} if "autoencoder" in roles else roles for roles in places]  # a need is no size
        for path, _, _ in found.problems:  # of one part, built from what those before it published
            places.append(set(VIDEO if path[0] == "data" else ROLES[: ROLES.index(str(path[0])) + 1]))
        return {frozenset((role, row[role]) for role in roles) for roles in places}

    def _hopeless(self, row: Row) -> bool:
        """Whether some options of a row, or of a part of one, are known not to fit together."""
        said = set(row.items())
        return not self._meets(row) or any(blamed <= said for blamed in self.refused)

    def _meets(self, row: Row) -> bool:
        """Whether objective and sampler, where they are known, accept the denoiser."""
        denoiser = self._class("denoiser", row)
        for other in ("objective", "sampler"):
            part: Any = self._class(other, row)
            if part is not None and denoiser is not None and not issubclass(denoiser, part.accepts):
                return False
            if other == "objective" and part is not None and part.learns != "denoiser":
                return False
        return True

    def _class(self, role: str, row: Row) -> type[Component] | None:
        option = self.options[role][row[role]] if role in row else None
        return self._part(role, option["type"]) if option else None

    def each(self, nowhere: Collection[tuple[str, str]] = ()) -> Iterator[dict[str, str]]:
        """Rows that fit, until every option that ever fits has been in one: few, for every day. Options that are known
        to fit nowhere are not looked for."""
        chance, covered, seen = random.Random(self.seed), set[Pair](), set[tuple[str, str]]()
        for role in sorted(ROLES, key=lambda role: -len(self.options[role])):
            for word in self._words(role):
                if (role, word) in seen or (role, word) in nowhere:
                    continue
                ways = [{role: word}, *({**plain, role: word} for plain in PLAIN)]
                row = next((row for way in ways if (row := self.legal(way, covered, chance))), None)
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
                    if frozenset({(one, a), (other, b)}) in covered:
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
        order = [
            ((one, a), (other, b))
            for one, other in combinations(ROLES, 2)
            for a in self._words(one)
            for b in self._words(other)
        ]
        chance.shuffle(order)
        left, made = set(map(frozenset, order)), 0
        for begun in order:
            if frozenset(begun) not in left:
                continue
            if made == most:
                return
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
