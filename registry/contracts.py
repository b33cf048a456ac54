"""The contract checks of a plugin's parts, with nested parts built through the catalogue."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mutoscope.core.checks import Bench, checks_of
from mutoscope.core.component import Component, Facts, Nested
from mutoscope.core.errors import InputError, WorkError
from mutoscope.core.process import Process
from mutoscope.registry.building import Builder, Findings
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import settings_of
from mutoscope.registry.loading import Plugin
from mutoscope.registry.mismatches import Ledger
from mutoscope.registry.recipe import Recipe


@dataclass(frozen=True)
class Outcome:
    """What a check found. said: the sentence of a failure, else empty."""

    role: str
    part: str
    check: str
    passed: bool
    said: str


def find_plugin(name: str) -> tuple[Catalog, Plugin]:
    """A plugin file, or an installed plugin by its name or its distribution's, and the catalogue it is in.

    Raises InputError where there is none, WorkError with the reason where it does not load.
    """
    file = Path(os.path.expanduser(name)) if name.endswith(".py") else None
    catalog = Catalog.load([file] if file else [])
    wanted = str(file.resolve()) if file else name
    for plugin in catalog.plugins:
        if wanted in ((plugin.origin,) if file else (plugin.name, plugin.origin)):
            return catalog, plugin
    for failure in catalog.failures:
        if wanted in ((failure.origin,) if file else (failure.name, failure.origin)):
            raise WorkError(str(failure))
    raise InputError(problem="no plugin is called this", got=name, allowed=[p.name for p in catalog.plugins])


def check_plugin(catalog: Catalog, plugin: Plugin) -> Iterator[Outcome]:
    """Runs every check on every part that a plugin offers."""
    for part in plugin.offered:
        yield from check_part(catalog, part)


def check_part(catalog: Catalog, part: type[Component]) -> Iterator[Outcome]:
    """Runs every check on a part. What a part raises is a failure of that check alone."""
    try:
        checks = checks_of(part, NestedParts(catalog, part))
    except Exception as error:
        yield Outcome(part.role, part.name, "can_be_checked", False, _line(error))
        return
    for check in checks:
        try:
            check.run()
        except (Exception, SystemExit) as error:
            yield Outcome(part.role, part.name, check.name, False, _line(error))
        else:
            yield Outcome(part.role, part.name, check.name, True, "")


class NestedParts:
    """Builds the parts nested in a part, for its checks."""

    def __init__(self, catalog: Catalog, owner: type[Component]) -> None:
        self.catalog = catalog
        self.settings = {
            setting.name: (setting.nested, owner.tiny.get(setting.name, setting.default))
            for setting in settings_of(owner)
            if setting.nested
        }

    def __call__(self, nested: Nested, facts: Facts) -> Any:
        """Raises AssertionError where it does not fit."""
        roles = self._roles(nested)
        role = next((role for role in roles if self.catalog.find(role, nested.type)), None)
        assert role is not None, f"there is no part '{nested.type}' of the role {' or '.join(roles)}"
        recipe = Recipe.of({})
        findings = Findings(recipe)
        builder = Builder(recipe, self.catalog, findings, torch.get_default_device(), {})
        ledger = Ledger().publish(self._with_process(role, nested, facts), ("owner",))
        built = builder.part(role, (role,), role, {"type": nested.type, **nested.settings}, ledger)
        wrong = [str(error) for _, _, error in findings.problems] + [found.says for found in findings.mismatches]
        assert not wrong, wrong[0]
        return built

    def _roles(self, nested: Nested) -> list[str]:
        """The role of the setting that says so, or of every nested part."""
        said = [
            role
            for role, value in self.settings.values()
            if nested is value or (isinstance(value, dict) and any(nested is one for one in value.values()))
        ]
        return list(dict.fromkeys(said or [role for role, _ in self.settings.values()]))

    def _with_process(self, role: str, nested: Nested, facts: Facts) -> tuple[Any, ...]:
        """The facts, with a stand-in for the objective's process where an owner has no need of one itself."""
        cls = self.catalog.find(role, nested.type)
        if cls is None or facts.get(Process) is not None:
            return facts.published
        return (*(fact for fact in Bench(cls).facts.published if isinstance(fact, Process)), *facts.published)


def _line(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AssertionError) and text else f"{type(error).__name__}: {text or 'no message'}"
