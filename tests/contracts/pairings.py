"""A generator of recipes that pairs parts with parts, small, drawn from the catalogue; it knows no family.

A row says one option for every role. Assembly is the judge of what fits: of every row that it refuses, the options that
its findings name are remembered as not fitting together, so that a search among millions of rows takes seconds.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from typing import Any

from mutoscope.core.component import Component
from mutoscope.core.facts import Need, TokenFact
from mutoscope.core.values import Grid
from mutoscope.registry.assembly import attempt
from mutoscope.registry.building import Findings
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import fact_needs, settings_of
from mutoscope.registry.mismatches import PUBLISHERS, Mismatch, holds
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.wording import plain

ROLES = ("data", "autoencoder", "patchifier", "conditioner", "objective", "denoiser", "sampler")
VIDEO = ROLES[:3]
"""From video to tokens."""
NONE = "none"
"""The option of a conditioner that is not there."""
TRAINING = {"batch": 2, "lr": 1e-3}
PHASE = {"learn": "denoiser", "steps": 1}
CLIPS = {"odd": (5, 16, 16), "even": (4, 16, 16), "small": (4, 8, 8), "large": (4, 32, 32), "still": (1, 16, 16)}
"""Frames, rows, columns of the data: autoencoders and generators differ in what they fit."""
MORE: dict[str, dict[str, dict[str, Any]]] = {
    "patchifier": {"spacetime_cells": {"type": "spacetime", "size": [1, 1, 1]}, "navit_cells": {"type": "navit", "size": [1, 1, 1]}},
    "objective": {"variational_bits": {"type": "variational", "chain": "binomial", "steps": 3}},
}  # fmt: skip
"""Options beside every part's own `tiny`: settings without which another part would never fit."""
PLAIN = (
    {"data": "shapes:odd", "autoencoder": "identity", "patchifier": "spacetime_cells"},
    {"data": "shapes:still", "autoencoder": "identity", "patchifier": "spacetime_cells"},
    {"data": "shapes:large", "autoencoder": "identity", "patchifier": "spacetime_cells"},
    {"data": "shapes:odd", "autoencoder": "identity", "patchifier": "spacetime_cells", "conditioner": "one_hot"},
)
"""Where an option is looked for that fits nowhere else: pixels, one by one, also of a class."""
BESIDE = {"classifier_guided": {"tower": "adm_classifier"}, "blended": {"writer": "captioner"}}
"""What an option needs in the recipe besides the roles of a row."""
FIRST: dict[str, Any] = {"time_only": {"type": "joint_images", "share": 1.0}, "distil": "continuous"}
"""What teaches the denoiser before an objective that goes on from what it has learned."""
NODES = 400
"""Beginnings of rows that one search looks at."""

Row = Mapping[str, str]
Option = tuple[str, str]
"""A role, and the word of an option for it."""
Pair = frozenset[Option]


def pairs_of(row: Row) -> set[Pair]:
    """The pairs of options that a row tries together; clips of one dataset count as the dataset."""
    said = [(role, word.partition(":")[0]) for role, word in row.items()]
    return {frozenset(pair) for pair in combinations(said, 2)}


class Pairings:
    """Rows of options, and their recipes."""

    def __init__(self, catalog: Catalog, seed: int = 0) -> None:
        self.catalog, self.seed = catalog, seed
        self.hosted: dict[str, Any] = {}
        self.options = {role: self._options(role) for role in ROLES}
        self.refused: set[Pair] = set()
        self.against: dict[Option, list[Pair]] = defaultdict(list)
        self.looked: set[Pair] = set()
        self._refuse(self._not_accepted())

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
        if "denoiser" not in row:
            return Recipe.of(said)
        phases: list[dict[str, Any]] = [PHASE]
        if first := FIRST.get(row.get("objective", "")):
            phases.append({**PHASE, "objective": said["objective"]})
            said["objective"] = first
        return Recipe.of({**said, "training": {**TRAINING, "phases": phases}})

    def findings(self, row: Row) -> Findings:
        """What assembly has against a row."""
        return attempt(self.recipe(row), self.catalog, self.hosted)

    # Rows that fit

    def legal(self, wanted: Row, covered: set[Pair], chance: random.Random, most: int = 24) -> dict[str, str] | None:
        """A row with what is wanted that fits, of new pairs by preference; None where `most` attempts find none."""
        words = {}
        for role in ROLES:
            words[role] = [w for w in self.options[role] if wanted.get(role) in (None, w, w.partition(":")[0])]
            chance.shuffle(words[role])
        attempts, nodes = most, NODES

        def grown(row: dict[str, str]) -> dict[str, str] | None:
            nonlocal attempts, nodes
            nodes -= 1
            if len(row) == len(ROLES):
                attempts -= 1
                row = {role: row[role] for role in ROLES}
                self._refuse(blamed := self.blamed(row))
                return None if blamed else row
            if set(VIDEO) <= set(row):
                self._look({role: row[role] for role in VIDEO})
            said = set(row.items())
            live = {r: [w for w in words[r] if self._may((r, w), said)] for r in ROLES if r not in row}
            role = min(live, key=lambda role: len(live[role]))
            for word in sorted(live[role], key=lambda word: -len(pairs_of({**row, role: word}) - covered)):
                if attempts <= 0 or nodes <= 0 or self._hopeless(row):
                    return None
                if self._may((role, word), said) and (found := grown({**row, role: word})) is not None:
                    return found
            return None

        return grown({})

    def blamed(self, row: Row) -> set[Pair]:
        """The options that do not fit together, in each finding that assembly has; none where the row fits."""
        found = self.findings(row)
        sets = [self._apart(mismatch, row) for mismatch in found.mismatches]
        for path, _, _ in found.problems:
            sets.append(set(VIDEO) if path[0] == "data" else self._upstream(str(path[0]), row, len(path) > 1))
        return {frozenset((role, row[role]) for role in roles & set(row)) for roles in sets}

    def _apart(self, mismatch: Mismatch, row: Row) -> set[str]:
        """The roles that do not fit: who needs something, and who gives something else. What is said of a grid, all
        had a part in that come before."""
        needing, *giving = (str(place[0]) for place in mismatch.involved)
        part = self._class(needing, row)
        needs = fact_needs(part) if part else []
        sized = [one.says for need in needs if need.fact is TokenFact for one in need.needs if _of_grid(one)]
        return {_home(needing, row), *(VIDEO if mismatch.need in sized else [_home(role, row) for role in giving[:1]])}

    def _upstream(self, role: str, row: Row, nested: bool) -> set[str]:
        """The role of a part, and those whose facts it is built from, or that a part in it may be."""
        part, found = self._class(role, row), {_home(role, row)}
        if role in ROLES and (nested or (part and any(setting.nested for setting in settings_of(part)))):
            return set(ROLES[: ROLES.index(role) + 1])
        for need in fact_needs(part) if part else []:
            given = next((given for fact, given in PUBLISHERS.items() if issubclass(need.fact, fact)), role)
            found |= self._upstream(given, row, False) if given not in (role, *found, "owner", "stage") else set()
        return found

    def _refuse(self, sets: Collection[Pair]) -> None:
        """Remembers options that do not fit together."""
        for options in set(sets) - self.refused:
            self.refused.add(options)
            for option in options:
                self.against[option].append(options - {option})

    def _look(self, video: Row) -> None:
        """Learns whether the parts from video to tokens fit, once."""
        if (options := frozenset(video.items())) not in self.looked:
            self.looked.add(options)
            self._refuse(self.blamed(video))

    def _may(self, option: Option, said: Collection[Option]) -> bool:
        """Whether nothing is known against an option beside others."""
        return not any(others <= said for others in self.against.get(option, ()))  # type: ignore[operator]

    def _hopeless(self, row: Row) -> bool:
        """Whether some options of a row, or of a part of one, are known not to fit together."""
        said = set(row.items())
        return not all(self._may(option, said) for option in said)

    def _not_accepted(self) -> Iterator[Pair]:
        """What the classes alone say: objectives and samplers do not accept each denoiser."""
        for role in ("objective", "sampler"):
            for word in self.options[role]:
                part: Any = self._class(role, {role: word})
                if getattr(part, "learns", "denoiser") != "denoiser":
                    yield frozenset({(role, word)})
                for name in self.options["denoiser"]:
                    if not issubclass(self._part("denoiser", name), part.accepts):
                        yield frozenset({(role, word), ("denoiser", name)})

    def _class(self, role: str, row: Row) -> type[Component] | None:
        if role not in ROLES:
            name = next(
                (beside[role] for word, beside in BESIDE.items() if role in beside and word in row.values()), None
            )
            return self._part(role, name) if name else None
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
                this = {role: word}
                ways = [(this, 6), *(({**plain, **this}, 24) for plain in PLAIN), (this, 24)]
                row = next((row for way, most in ways if (row := self.legal(way, covered, chance, most))), None)
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


def _home(role: str, row: Row) -> str:
    """The role of a row by whose option a part is in the recipe: its own, or of what needs it beside."""
    if role in ROLES:
        return role
    return next((one for one, word in row.items() if role in BESIDE.get(word, ())), "objective")


def _of_grid(need: Need) -> bool:
    """Whether what is wanted of tokens is a matter of how many there are."""
    return "grid" in holds(need, TokenFact(1, Grid(1, 1, 1), 1))[1]
