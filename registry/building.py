"""Building parts: words and settings of a recipe become components, wired by type to what was published before."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mutoscope.core.component import Component, Facts, Nested
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact
from mutoscope.core.process import Process
from mutoscope.core.randomness import key
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.checking import Problem, check_settings, part_named
from mutoscope.registry.contract import NOTHING, FactNeed, Setting, fact_needs, settings_of
from mutoscope.registry.mismatches import Ledger, Mismatch, Path, Published, gives, holds, kind_of
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.weights import load_weights

HOST = ("data", "metric")
"""Roles of parts that hold no weights: they are built once, never on the meta device."""


@dataclass(frozen=True)
class Made:
    """A part as it was built. path: in the recipe. address: in the model, `denoiser`, `base.objective.discriminator`.
    facts: all that it could be wired to, what its owner lent among them. part: None for a metric that is only checked.
    """

    role: str
    path: Path
    address: str
    type: type[Component]
    part: Any
    facts: Facts


class Findings:
    """All that is wrong with a recipe: problems of one part each, and mismatches between parts."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.problems: list[tuple[Path, str, InputError]] = []
        self.mismatches: list[Mismatch] = []
        self.roles: dict[Path, str] = {}

    def problem(self, path: Path, problem: str, got: Any = None, allowed: Iterable[object] | str | None = None) -> None:
        if got is None and allowed is not None and not isinstance(allowed, str):
            allowed = ", ".join(map(str, allowed)) or None
        error = self.recipe.problem(path, problem, got=got, allowed=allowed)
        if all(str(error) != str(other) for _, _, other in self.problems):
            self.problems.append((path, problem, error))

    def settings(self, path: Path, problems: Sequence[Problem]) -> None:
        """Problems of the settings of the part at `path`."""
        for wrong in problems:
            got = None if wrong.got is NOTHING else wrong.got
            self.problem((*path, *wrong.path), wrong.problem, got=got, allowed=wrong.allowed or None)

    def mismatch(self, path: Path, need: str, says: str, involved: Sequence[Path]) -> None:
        known = [place for place in dict.fromkeys([path, *involved]) if place]
        found = Mismatch(path, need, says, tuple(known))
        if found.identity not in [m.identity for m in self.mismatches]:
            self.mismatches.append(found)

    @property
    def any(self) -> bool:
        return bool(self.problems or self.mismatches)

    def identities(self) -> set[tuple[Path, str]]:
        """What names the findings, to compare those of similar recipes."""
        return {(path, problem) for path, problem, _ in self.problems} | {m.identity for m in self.mismatches}


class Builder:
    """Builds the parts of one recipe on one device.

    device: `meta` constructs without memory; elsewhere the weights drawn are a function of (seed, address), so that
    another part in one place does not change the weights of its neighbours. hosted: parts that hold no weights, by
    place, shared between builders of the same recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        catalog: Catalog,
        findings: Findings,
        device: torch.device,
        hosted: dict[str, Any],
    ) -> None:
        self.recipe, self.catalog, self.findings = recipe, catalog, findings
        self.device, self.hosted = device, hosted
        self.seed = 0
        self.made: dict[str, Made] = {}
        self.sources: dict[Path, tuple[Path, ...]] = {}

    @property
    def sketching(self) -> bool:
        """Whether parts are only tried, on the meta device."""
        return self.device.type == "meta"

    def part(self, role: str, path: Path, address: str, value: Any, ledger: Ledger, seed: int = 0) -> Any | None:
        """The part that `value` of the recipe names, or None after a finding.

        ledger: what it can be wired to. seed: of its first weights, and of those nested in it.
        """
        self.seed = seed
        named, wrong = part_named(value)
        self.findings.settings(path, wrong)
        return None if named is None else self._named(role, path, address, named, ledger)

    def class_of(self, role: str, value: Any) -> type[Component] | None:
        """The class that `value` of the recipe names, if it names one."""
        named, _ = part_named(value)
        return None if named is None else self.catalog.find(role, named.type)

    def _named(
        self, role: str, path: Path, address: str, named: Nested, ledger: Ledger, kind: type | None = None
    ) -> Any | None:
        cls = self.catalog.find(role, named.type)
        self.findings.roles[path] = role
        if cls is None:
            said = f"unknown {role} '{named.type[:60]}'; {self.catalog.suggest(role, named.type)}"
            self.findings.problem(path, said)
            return None
        if kind is not None and not issubclass(cls, kind):
            self.findings.problem(path, f"must be a {kind.__name__}, which {role} '{named.type}' is not")
            return None
        settings, wrong = check_settings(cls, named.settings)
        self.findings.settings(path, wrong)
        for word in ("weights", "frozen"):
            said = named.settings.get(word)
            if said and isinstance(said, (str, bool)) and not issubclass(cls, nn.Module):
                self.findings.problem((*path, word), f"{role} '{named.type}' has no weights", got=said)
        wires = self._wires(cls, path, ledger)
        for setting in settings_of(cls):
            if setting.nested is not None and setting.name in settings:
                parts, whole = self._nested(
                    cls, setting, settings[setting.name], path, address, ledger, wires is not None
                )
                settings[setting.name] = parts
                wires = wires if whole else None
        if wires is None or wrong:
            return None
        return self._constructed(role, path, address, cls, {**wires, **settings}, named, ledger)

    # Wiring

    def _wires(self, cls: type[Component], path: Path, ledger: Ledger) -> dict[str, Any] | None:
        """The facts of a constructor, or None where one is missing; what does not suit is recorded."""
        wires: dict[str, Any] | None = {}
        sources: list[Path] = []
        for need in fact_needs(cls):
            found = ledger.find(need.fact)
            if found is None:
                if need.optional:
                    continue
                self._missing(cls, need, path, ledger)
                wires = None
                continue
            sources.append(found.path)
            self._check_needs(cls, need, found, path, ledger)
            if wires is not None:
                wires[need.name] = found.fact
        self.sources[path] = tuple(source for source in sources if source)
        if wires is not None:
            wires |= {n.name: None for n in fact_needs(cls) if n.name not in wires and not _has_default(cls, n.name)}
        return wires

    def _missing(self, cls: type[Component], need: FactNeed, path: Path, ledger: Ledger) -> None:
        if ledger.excused(need.fact):
            return
        instead = ledger.find(Process) if issubclass(need.fact, Process) else None
        given = f"{self.label(instead.path)} gives a {kind_of(instead.fact)}" if instead else "nothing here gives one"
        involved = self.upstream([instead.path]) if instead else []
        says = f"{cls.name} needs a {need.fact.__name__}; {given}"
        self.findings.mismatch(path, need.fact.__name__, says, involved)

    def _check_needs(self, cls: type[Component], need: FactNeed, found: Published, path: Path, ledger: Ledger) -> None:
        for wanted in need.needs:
            met, fields = holds(wanted, found.fact)
            if met or (isinstance(found.fact, ConditioningFact) and "conditioner" in ledger.absent):
                continue
            origin = ledger.origin(found, fields)
            if origin:
                given, involved = (
                    f"{self.label(origin)} gives {gives(found.fact, fields)}",
                    [origin, *self.upstream([found.path])],
                )
            else:
                given, involved = "there is no conditioner", [beside(path, "conditioner")]
            self.findings.mismatch(path, wanted.says, f"{cls.name} needs {wanted.says}; {given}", involved)

    def upstream(self, paths: Sequence[Path]) -> list[Path]:
        """Places, and those that their parts were wired to in turn."""
        found: list[Path] = []
        rest = list(paths)
        while rest:
            place = rest.pop(0)
            if place and place not in found:
                found.append(place)
                rest += self.sources.get(place, ())
        return found

    def label(self, path: Path) -> str:
        """The name of the part at a place."""
        made = next((made for made in self.made.values() if made.path == path), None)
        return made.type.name if made else str(path[-1]) if path else "the recipe"

    # Nested parts

    def _nested(
        self, cls: type[Component], setting: Setting, value: Any, path: Path, address: str, ledger: Ledger, wired: bool
    ) -> tuple[Any, bool]:
        """The nested parts of one setting, and whether none of them is missing."""
        within = ledger.publish(cls.lend(ledger.facts), path) if wired else ledger.without("owner").without("objective")
        if isinstance(value, Mapping):
            parts = {k: self._inner(setting, v, (*path, setting.name, k), f"{address}.{setting.name}.{k}", within)
                     for k, v in value.items()}  # fmt: skip
            return parts, all(part is not None for part in parts.values())
        if value is None:
            return None, setting.optional
        part = self._inner(setting, value, (*path, setting.name), f"{address}.{setting.name}", within)
        return part, part is not None

    def _inner(self, setting: Setting, value: Nested | None, path: Path, address: str, ledger: Ledger) -> Any | None:
        if value is None or setting.nested is None:
            return None
        return self._named(setting.nested, path, address, value, ledger, setting.part)

    # Construction

    def _constructed(
        self,
        role: str,
        path: Path,
        address: str,
        cls: type[Component],
        given: dict[str, Any],
        named: Nested,
        ledger: Ledger,
    ) -> Any | None:
        part = None
        if not (role == "metric" and self.sketching):
            try:
                part = self._made(role, address, cls, given, named)
            except InputError as error:
                self.findings.problem(path, f"{cls.name}: {error.problem}", got=error.got, allowed=error.allowed)
                return None
            except (ValueError, OverflowError) as error:
                self.findings.problem(path, f"{cls.name}: {_line(error)}")
                return None
            if isinstance(part, nn.Module) and not self._settled(part, path, address, named):
                return None
        self.made[address] = Made(role, path, address, cls, part, ledger.facts)
        return part if part is not None else cls

    def _made(self, role: str, address: str, cls: type[Component], given: dict[str, Any], named: Nested) -> Any:
        if role not in HOST:
            with self._initialised(address):
                return cls(**given)
        place = f"{address} {named!r}"
        if place not in self.hosted:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(key(self.seed, "init", address))
                self.hosted[place] = cls(**given)
        return self.hosted[place]

    @contextmanager
    def _initialised(self, address: str) -> Iterator[None]:
        """The device, and torch's generators seeded for the part at an address."""
        devices = [self.device] if self.device.type == "cuda" else []
        fills = _Unfilled() if self.sketching else nullcontext()
        with torch.random.fork_rng(devices=devices), torch.device(self.device), fills:
            torch.manual_seed(key(self.seed, "init", address))
            yield

    def _settled(self, part: nn.Module, path: Path, address: str, named: Nested) -> bool:
        """Applies the keys of every part: weights, frozen."""
        weights = named.settings.get("weights")
        if weights is not None:
            try:
                load_weights(part, weights, address, [source.parent for source in self.recipe.sources])
            except InputError as error:
                self.findings.problem((*path, "weights"), error.problem, got=error.got, allowed=error.allowed)
                return False
        if named.settings.get("frozen"):
            part.frozen = True  # pyright: ignore[reportArgumentType]
            part.requires_grad_(False)
        return True


class _Unfilled(TorchFunctionMode):
    """Leaves random initial values out on the meta device: torch's own way to draw nothing takes seconds to import."""

    DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_, Tensor.erfinv_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.DRAWS or getattr(func, "__module__", "") == nn.init.__name__:
            filled = args[0] if args else (kwargs or {})["tensor"]
            if filled.is_meta:
                return filled
        return func(*args, **(kwargs or {}))


def beside(path: Path, role: str) -> Path:
    """The place of another role in the same stage."""
    return (*path[:2], role) if path and path[0] == "stages" else (role,)


def merged(facts: Sequence[ConditioningFact]) -> ConditioningFact:
    """What several conditioners give together; nothing without any."""
    whole = ConditioningFact()
    for fact in facts:
        whole = whole.merged(fact)
    return whole


def _has_default(cls: type[Component], name: str) -> bool:
    return inspect.signature(cls).parameters[name].default is not inspect.Parameter.empty


def _line(error: Exception) -> str:
    """The message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
