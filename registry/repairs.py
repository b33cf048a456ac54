"""What would make parts fit: each other part tried in their place, on the meta device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from mutoscope.registry.building import Findings
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.mismatches import Mismatch, Path
from mutoscope.registry.recipe import Recipe

SECONDS = 0.8
"""Of processor time, that repairs may be looked for, over all mismatches of a recipe."""

NAMED = 12
"""Parts of one place that a line names; the rest is counted, so that a line stays one that can be read."""

Attempt = Callable[[Recipe, Catalog, dict[str, Any]], Findings]


def lines(recipe: Recipe, catalog: Catalog, findings: Findings, hosted: dict[str, Any], attempt: Attempt) -> list[str]:
    """One line per finding, in the order of the recipe, mismatches with the one-word changes that would fit."""
    search = Search(recipe, catalog, findings, hosted, attempt)
    mistyped = {path[:-1] for path, _, error in findings.problems if _mistyped(path, error.problem)}

    def follows(path: Path, problem: str = "") -> bool:
        """Whether a finding may only be the consequence of a mistyped key of a phase, such as an objective missing."""
        return not _mistyped(path, problem) and any(path[: len(one)] == one for one in mistyped)

    said = [(path, str(error)) for path, _, error in findings.problems if not follows(path, error.problem)]
    for mismatch in (one for one in findings.mismatches if not follows(one.path)):
        fits = search.repairs(mismatch)
        hint = f"; would fit: {_grouped(fits)}" if fits else ""
        said.append((mismatch.path, str(recipe.problem(mismatch.path, mismatch.says + hint))))

    def place(path: Path) -> tuple[str, int]:
        file, line = recipe.where(path) or ("", None)
        return str(file), line or 0

    return [line for _, line in sorted(said, key=lambda one: place(one[0]))]


def _mistyped(path: Path, problem: str) -> bool:
    """Whether a finding is an unknown key of a phase, or an unknown learner."""
    return "phases" in path[:-1] and (problem.startswith("unknown setting") or path[-1] == "learn")


class Search:
    """Tries one other word at a time; a change fits a mismatch that it ends without causing another finding."""

    def __init__(
        self, recipe: Recipe, catalog: Catalog, findings: Findings, hosted: dict[str, Any], attempt: Attempt
    ) -> None:
        self.recipe, self.catalog, self.findings, self.hosted, self.attempt = recipe, catalog, findings, hosted, attempt
        self.deadline = time.process_time() + SECONDS
        self.tried: dict[tuple[Path, str], set[tuple[Path, str]] | None] = {}

    def repairs(self, mismatch: Mismatch) -> list[tuple[Path, str]]:
        """The places and words that would end a mismatch."""
        before = self.findings.identities()
        found = []
        for path, name in self._candidates(mismatch):
            after = self._after(path, name)
            if after is not None and mismatch.identity not in after and after <= before:
                found.append((path, name))
        return found

    def _candidates(self, mismatch: Mismatch) -> Iterator[tuple[Path, str]]:
        for path in mismatch.involved:
            role = self.findings.roles.get(path, str(path[-1]))
            value = self.recipe.get(path)
            now = value.get("type") if isinstance(value, dict) else value
            if role in self.catalog.roles() and not isinstance(value, list):
                yield from ((path, name) for name in self.catalog.classes(role) if name != now)

    def _after(self, path: Path, name: str) -> set[tuple[Path, str]] | None:
        """What is wrong with the recipe that has this word there; None where that cannot be told in time."""
        if (path, name) not in self.tried:
            if time.process_time() > self.deadline:
                return None
            try:
                self.tried[path, name] = self.attempt(
                    self.recipe.replace(path, name), self.catalog, self.hosted
                ).identities()
            except Exception:  # whatever is wrong with that part, it is no repair
                self.tried[path, name] = None
        return self.tried[path, name]


def _grouped(fits: list[tuple[Path, str]]) -> str:
    """`denoiser: dit, unet3d; autoencoder: vq`, and how many more where there are many."""
    by_place: dict[str, list[str]] = {}
    for path, name in fits:
        by_place.setdefault(".".join(map(str, path)), []).append(name)

    def some(names: list[str]) -> str:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more

    return "; ".join(f"{place}: {some(names)}" for place, names in by_place.items())
