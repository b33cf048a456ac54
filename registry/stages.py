"""The parts of one stage, built in the order in which their facts are published, and whether they fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from mutoscope.core.component import Component, Facts, Nested
from mutoscope.core.facts import ClipFact, ConditioningFact, EarlierFact, LatentFact
from mutoscope.core.model import GENERATING, ROLES, Model
from mutoscope.core.objective import Objective
from mutoscope.core.settings import Count, Size
from mutoscope.registry.building import Builder, Findings, merged
from mutoscope.registry.checking import check_fields, part_named
from mutoscope.registry.contract import settings_of
from mutoscope.registry.fit import check_fit
from mutoscope.registry.mismatches import Ledger, Path
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.training import PhaseSaid, TrainingSaid


@dataclass(frozen=True)
class View:
    """How a stage sees the data: so many frames, of so many rows and columns; None as the data gives them."""

    frames: Count | None = None
    size: Size | None = None


@dataclass(frozen=True)
class Stage:
    """One stage as built. model: None after a finding. objectives: by index of the phase. facts: all published."""

    name: str
    path: Path
    model: Model | None
    facts: Facts
    objectives: Mapping[int, Objective] = field(default_factory=dict)

    @property
    def whole(self) -> Model:
        assert self.model is not None
        return self.model

    @property
    def tokens(self) -> int:
        """Tokens of a training clip; 0 where the stage cuts none."""
        if self.whole.lacks(("autoencoder", "patchifier")):
            return 0
        clip = self.whole.clip
        return self.whole.patchifier.token_grid(self.whole.autoencoder.latent_grid(clip.frames, clip.size)).cells

    def learns(self, phase: PhaseSaid, findings: Findings) -> bool:
        """Whether the phase's learner has anything to learn."""
        learner = self.whole.part(phase.learn)
        if any(p.requires_grad for p in learner.parameters()):
            return True
        name = getattr(learner, "name", phase.learn)
        why = "is frozen and learns nothing" if any(True for _ in learner.parameters()) else "has no weights to learn"
        findings.problem((*self.path, phase.learn), f"{name} {why}; phase {phase.name} teaches it")
        return False


def stages_said(recipe: Recipe, findings: Findings) -> list[Mapping[str, Any]]:
    """The stages of a cascade, with names; none for a recipe without."""
    said = recipe.data.get("stages")
    if said is None:
        return []
    if not isinstance(said, list) or not said:
        findings.problem(("stages",), "must be a list of stages, each with a name and parts", got=said)
        return []
    named: list[Mapping[str, Any]] = []
    for i, stage in enumerate(said):
        if not isinstance(stage, Mapping):
            findings.problem(("stages", i), "must be a mapping with a name and parts", got=stage)
            continue
        name = stage.get("name")
        if name is None:
            findings.problem(("stages", i, "name"), "is missing: a stage has a name of its own")
        elif "." in str(name) or name in [s["name"] for s in named]:
            findings.problem(("stages", i, "name"), "must be a name of its own, without dots", got=name)
        elif hasattr(nn.ModuleDict(), str(name)):
            findings.problem(("stages", i, "name"), "is a word that torch keeps for itself", got=name)
        named.append({**stage, "name": str(name or i)})
    for role in ROLES:
        if recipe.data.get(role) is not None:
            findings.problem((role,), "stands beside stages; a cascade's parts stand in its stages")
    return named


class StageBuilder:
    """Builds stages one after another; a later one is told of the earlier one's video."""

    def __init__(self, builder: Builder, training: TrainingSaid) -> None:
        self.builder, self.training, self.findings = builder, training, builder.findings

    def build(self, data: Mapping[str, Any], said: Sequence[Mapping[str, Any]], ledger: Ledger) -> list[Stage]:
        """All stages of a recipe, or the one of a recipe without."""
        if not said:
            alone = self._stage("", (), data, ledger, None)
            self._check_last(alone, data)
            return [alone]
        stages, earlier = [], None
        for i, stage in enumerate(said):
            stages.append(self._stage(stage["name"], ("stages", i), stage, ledger, earlier))
            clip = stages[-1].facts.get(ClipFact)
            earlier = EarlierFact(clip.channels, clip.frames, clip.size) if clip else None
        if stages:
            self._check_last(stages[-1], said[-1])
        return stages

    def _check_last(self, stage: Stage, said: Mapping[str, Any]) -> None:
        """Nothing is generated where the last stage's latents are not video's."""
        latents = stage.facts.get(LatentFact)
        if latents is not None and not latents.decodes and said.get("sampler") is not None:
            place = (*stage.path, "autoencoder")
            self.findings.problem(place, "its latents are not decoded; a further stage must make video of them")

    def _stage(
        self, name: str, path: Path, said: Mapping[str, Any], ledger: Ledger, earlier: EarlierFact | None
    ) -> Stage:
        ledger = self._seen(ledger, path, said.get("view"))
        if earlier is not None:
            ledger = ledger.publish([earlier], (*path[:1], path[1] - 1))  # type: ignore[operator]
        ledger = ledger.publish([ConditioningFact()], ())
        phases = self.training.of(name)
        home = objective_home(path, said, phases)
        needed = self._needed(phases)
        parts: dict[str, Any] = {}
        for role in ROLES:
            place, value = home if role == "objective" else ((*path, role), said.get(role))
            if value is None:
                ledger = ledger if role == "conditioner" else ledger.without(role)
                if role in needed:
                    names = self.builder.catalog.classes(role)
                    self.findings.problem(place, f"is missing: phase {needed[role]} needs it", allowed=names)
                continue
            parts[role], ledger = self._role(role, place, name, value, ledger)
        reads = next((c for c in parts.get("conditioner") or () if c is not None and c.reads_written), None)
        if reads is not None and said.get("writer") is None:
            names = self.builder.catalog.classes("writer")
            self.findings.problem((*path, "writer"), f"is missing: {reads.name} reads what it writes", allowed=names)
        objectives = self._objectives(phases, home[0], parts, ledger)
        self._check_pairs(path, said, home, phases, ledger, parts.get("conditioner", ()))
        clip = ledger.find(ClipFact)
        if clip is not None:
            check_fit(self.findings, clip.fact, parts, (*path, "view") if said.get("view") else ("data",))
        if clip is None or self.findings.any:
            return Stage(name, path, None, ledger.facts)
        made = {role: part for role, part in parts.items() if role != "conditioner"}
        model = Model(clip.fact, conditioners=parts.get("conditioner", ()), **made)
        return Stage(name, path, model, ledger.facts, objectives)

    def _seen(self, ledger: Ledger, path: Path, view: Any) -> Ledger:
        """The clips as the stage's view shows them."""
        clip = ledger.find(ClipFact)
        if view is None or clip is None:
            return ledger
        if not isinstance(view, Mapping):
            self.findings.problem((*path, "view"), "must be a mapping with size and frames", got=view)
            return ledger
        values, wrong = check_fields(View, view)
        self.findings.settings((*path, "view"), wrong)
        given = {name: value for name, value in values.items() if value is not None}
        return ledger.publish([replace(clip.fact, **given)], (*path, "view"))

    def _role(self, role: str, path: Path, stage: str, value: Any, ledger: Ledger) -> tuple[Any, Ledger]:
        """The part of a role, or the list of conditioners, and the ledger with what it publishes."""
        base = f"{stage}.{role}" if stage else role
        seed = self.training.seed_of(stage, role)
        if role != "conditioner":
            part = self.builder.part(role, path, base, value, ledger, seed)
            return part, ledger.without(role) if part is None else ledger.publish(part.facts(), path)
        said = value if isinstance(value, list) else [value]
        built, within = [], ledger
        for i, one in enumerate(said):
            place = (*path, i) if isinstance(value, list) else path
            address = base if len(said) == 1 else f"{base}.{i}"
            part = self.builder.part(role, place, address, one, within, seed)
            built.append(part)
            ledger = ledger.without(role) if part is None else ledger.publish(part.facts(), place)
        told = [
            fact for part in built if part is not None for fact in part.facts() if isinstance(fact, ConditioningFact)
        ]
        widths = {fact.sequence for fact in told if fact.sequence}
        if len(widths) > 1:
            self.findings.problem(
                path, f"sequences of several widths ({', '.join(map(str, sorted(widths)))}) do not merge"
            )
        return built, ledger.publish([merged(told)], path)

    # Objectives

    def _needed(self, phases: Sequence[PhaseSaid]) -> dict[str, str]:
        """The roles that the phases need, and the first phase that does."""
        needed: dict[str, str] = {}
        for phase in phases:
            for role in GENERATING if phase.learn == "denoiser" else (phase.learn,):
                needed.setdefault(role, phase.name)
        return needed

    def _objectives(
        self, phases: Sequence[PhaseSaid], home: Path, parts: Mapping[str, Any], ledger: Ledger
    ) -> dict[int, Objective]:
        """The objective of each phase: its own, or the stage's."""
        built: dict[int, Any] = {}
        for phase in phases:
            if phase.objective is None and phase.learn == "denoiser":
                built[phase.index] = parts.get("objective")
            elif phase.objective is None:
                allowed = [n for n, c in self.builder.catalog.classes("objective").items() if _learns(c) == phase.learn]
                self.findings.problem(
                    (*phase.path, "objective"), f"is missing: what teaches the {phase.learn}", allowed=allowed
                )
            elif home == (*phase.path, "objective"):
                built[phase.index] = parts.get("objective")
            else:
                path = (*phase.path, "objective")
                address = ".".join(map(str, path))
                built[phase.index] = self.builder.part(
                    "objective", path, address, phase.objective, ledger, phase.descent.seed
                )
        return {index: objective for index, objective in built.items() if objective is not None}

    # Who accepts whom

    def _check_pairs(
        self,
        path: Path,
        said: Mapping[str, Any],
        home: tuple[Path, Any],
        phases: Sequence[PhaseSaid],
        ledger: Ledger,
        conditioners: Sequence[Any],
    ) -> None:
        """Objectives and their learners, the sampler and its denoiser, guidance and the conditioners, the denoiser and
        known tokens."""
        taught = [(home[0], home[1], "denoiser")] if home[1] is not None else []
        taught += [((*p.path, "objective"), p.objective, p.learn) for p in phases if p.objective is not None]
        for place, (value, learn) in {place: (value, learn) for place, value, learn in taught}.items():
            self._check_objective(place, value, learn, path, said)
        sampler, denoiser = self._class("sampler", said), self._class("denoiser", said)
        if sampler and denoiser and not self._excused((*path, "sampler")):
            self._check_accepts(sampler, denoiser, (*path, "sampler"), (*path, "denoiser"))
        for place, value, role in [
            ((*path, "sampler"), said.get("sampler"), "sampler"),
            *((p, v, "objective") for p, v, _ in taught),
        ]:
            self._check_guidance(place, role, value, (*path, "conditioner"), conditioners)
        given = ledger.find(ConditioningFact)
        if denoiser and given and given.fact.known and not denoiser.uses_known:  # type: ignore[attr-defined]
            origin = ledger.origin(given, ["known"])
            says = f"{denoiser.name} does not use the known tokens that {self.builder.label(origin)} gives"
            self.findings.mismatch((*path, "denoiser"), "known", says, [origin])

    def _check_objective(self, place: Path, value: Any, learn: str, path: Path, said: Mapping[str, Any]) -> None:
        objective, learner = self.builder.class_of("objective", value), self._class(learn, said)
        if objective is None:
            return
        if _learns(objective) != learn:
            says = f"{objective.name} teaches the {_learns(objective)}, not the {learn}"
            self.findings.mismatch(place, "learns", says, [])
        elif learner and not self._excused((*path, learn)):
            self._check_accepts(objective, learner, place, (*path, learn))
        for setting in settings_of(objective):
            if setting.nested == "objective":  # an objective within an objective teaches the same learner
                own = value.get(setting.name) if isinstance(value, Mapping) else None
                default = setting.default if isinstance(setting.default, Nested) else None
                inner, _ = part_named(default.type if own is None and default else own, default)
                if inner is not None:
                    whole = {"type": inner.type, **inner.settings}
                    self._check_objective((*place, setting.name), whole, learn, path, said)

    def _check_guidance(self, place: Path, role: str, value: Any, home: Path, conditioners: Sequence[Any]) -> None:
        """What guides needs a conditioner that has learned to be told nothing; one that could not be built may have."""
        part = self.builder.class_of(role, value) if value is not None else None
        setting = next((s for s in settings_of(part) if s.name == "guidance"), None) if part else None
        if part is None or setting is None or any(c is None or c.dropout > 0 for c in conditioners):
            return
        scale = value.get("guidance", setting.default) if isinstance(value, Mapping) else setting.default
        if scale != 1:
            says = (
                f"{part.name} guides, by a scale of {scale}, and no conditioner has learned to be told nothing "
                "(dropout above 0); guidance: 1 is none"
            )
            self.findings.mismatch(place, "told nothing", says, [home])

    def _check_accepts(self, cls: type[Component], other: type[Component], place: Path, others: Path) -> None:
        accepts = cls.accepts  # type: ignore[attr-defined]
        if issubclass(other, accepts):
            return
        names = " or a ".join(kind.__name__ for kind in (accepts if isinstance(accepts, tuple) else (accepts,)))
        kind = next(iter(other.capabilities()), None)
        known = f", a {kind}" if kind else ""
        says = f"{cls.name} works with a {names}; {other.role} is {other.name}{known}"
        self.findings.mismatch(place, f"accepts {names}", says, [others])

    def _excused(self, place: Path) -> bool:
        """Whether the part at a place already lacks its process, which says the same."""
        return any(m.path == place and m.need.endswith("Process") for m in self.findings.mismatches)

    def _class(self, role: str, said: Mapping[str, Any]) -> type[Component] | None:
        return self.builder.class_of(role, said[role]) if said.get(role) is not None else None


def objective_home(path: Path, said: Mapping[str, Any], phases: Sequence[PhaseSaid]) -> tuple[Path, Any]:
    """Where the objective of a stage's denoiser stands, and what: at the top, or in the last phase that teaches it."""
    if said.get("objective") is not None:
        return (*path, "objective"), said["objective"]
    for phase in reversed(phases):
        if phase.learn == "denoiser" and phase.objective is not None:
            return (*phase.path, "objective"), phase.objective
    return (*path, "objective"), None


def _learns(cls: type[Component]) -> str:
    return cls.learns  # type: ignore[attr-defined]
