"""The `training:` of a recipe: phases, how each descends, and their turns, checked key by key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mutoscope.core.errors import nearest
from mutoscope.core.training.plan import Budget, Descent
from mutoscope.registry.building import Findings
from mutoscope.registry.checking import check_fields
from mutoscope.registry.mismatches import Path

LEARNERS = ("autoencoder", "denoiser", "tower", "writer")
"""Roles that a phase may teach."""
DESCENT = tuple(f.name for f in fields(Descent))
PHASE = ("learn", "objective", "stage", "turns", *DESCENT)
RUN = ("phases", "turns", *DESCENT)
TURN = ("lr", "schedule", "warmup", "floor", "optimizer", "weight_decay", "betas", "clip")
"""What a turn may set for itself; the rest is decided by its phase, for all turns alike."""


@dataclass(frozen=True)
class PhaseSaid:
    """A phase as the recipe has it.

    index: among all phases. path: where it stands; of the `training` around it where the phase is only implied.
    objective: what stands under that key, or None. turns: settings of other turns, by turn.
    """

    index: int
    path: Path
    learn: str
    stage: str
    objective: Any
    descent: Descent
    turns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`0-autoencoder`; in a cascade `STAGE.0-denoiser`."""
        return f"{self.stage}.{self.index}-{self.learn}" if self.stage else f"{self.index}-{self.learn}"

    def turn(self, name: str) -> Descent:
        """The descent of another turn."""
        own = {f.name: getattr(self.descent, f.name) for f in fields(Descent)}
        return Descent(**{**own, **self.turns.get(name, {})})


@dataclass(frozen=True)
class TrainingSaid:
    """All phases, and the seed of the run."""

    phases: tuple[PhaseSaid, ...]
    seed: int

    def of(self, stage: str) -> list[PhaseSaid]:
        """The phases of a stage."""
        return [phase for phase in self.phases if phase.stage == stage]

    def seed_of(self, stage: str, role: str) -> int:
        """The seed of a part's first weights: of the first phase that teaches it, so that an arm of a study which
        fixes a phase's seed shares that phase with the others; else of the run."""
        return next((p.descent.seed for p in self.of(stage) if role in taught(p.learn)), self.seed)


def taught(learn: str) -> tuple[str, ...]:
    """The roles whose weights a phase moves."""
    return ("denoiser", "conditioner", "objective") if learn == "denoiser" else (learn,)


def read_training(
    data: Mapping[str, Any], stages: Sequence[Mapping[str, Any]], findings: Findings, seed: int | None
) -> TrainingSaid:
    """What a recipe says of training. seed: in place of the recipe's.

    A recipe that lists no phases teaches its denoiser, in every stage. What is wrong goes to `findings`.
    """
    top = data.get("training")
    base = _level(top, ("training",), RUN, findings)
    if seed is not None:
        base["seed"] = seed
    phases: list[PhaseSaid] = []
    own_words: list[Mapping[str, Any]] = []
    names = [str(stage.get("name", i)) for i, stage in enumerate(stages)]

    def add(path: Path, said: Mapping[str, Any], around: dict[str, Any], stage: str, implied: bool = False) -> None:
        phases.append(_phase(len(phases), path, said, around, names, stage, implied, findings))
        own_words.append({} if implied else said)

    for path, said in _listed(top, ("training",), findings):
        add(path, said, base, "")
    for i, stage in enumerate(stages):
        place, own = ("stages", i, "training"), stage.get("training")
        around = _over(base, _level(own, place, RUN, findings))
        for path, said in _listed(own, place, findings):
            add(path, said, around, names[i])
        if not any(phase.stage == names[i] for phase in phases) and "denoiser" in stage:
            add(place, _implied(own), around, names[i], implied=True)
    if not phases and not stages and "denoiser" in data:
        add(("training",), _implied(top), base, "", implied=True)
    _check_lengths(base, [phase.path for phase in phases], own_words, findings)
    order = {name: place for place, name in enumerate(names)}
    if stages and not (isinstance(top, Mapping) and top.get("phases")):
        phases.sort(key=lambda phase: order.get(phase.stage, 0))
    return TrainingSaid(tuple(phases), int(base.get("seed", Descent.seed)))


def _listed(said: Any, path: Path, findings: Findings) -> list[tuple[Path, Mapping[str, Any]]]:
    """The phases under a `training:`, each with its place."""
    phases = said.get("phases") if isinstance(said, Mapping) else None
    if phases is None:
        return []
    if not isinstance(phases, list) or not phases:
        findings.problem((*path, "phases"), "must be a list of phases, each {learn: ROLE, ...}", got=phases)
        return []
    if said.get("turns") is not None:
        findings.problem((*path, "turns"), "stands beside phases; a turn stands in its phase")
    listed = []
    for i, phase in enumerate(phases):
        if isinstance(phase, Mapping):
            listed.append(((*path, "phases", i), phase))
        else:
            findings.problem((*path, "phases", i), "must be a mapping {learn: ROLE, ...}", got=phase)
    return listed


def _check_lengths(
    base: Mapping[str, Any], paths: Sequence[Path], phases: Sequence[Mapping[str, Any]], findings: Findings
) -> None:
    """A length said for all phases, where each has its own, would change nothing: not what who wrote it meant."""
    if phases and all(any(phase.get(key) is not None for key in ("steps", "budget")) for phase in phases):
        for key in ("steps", "budget"):
            if base.get(key) is not None:
                places = ", ".join(".".join(map(str, (*path, key))) for path in paths)
                findings.problem(("training", key), f"changes nothing, as every phase has its own; say {places}")


def _implied(said: Any) -> dict[str, Any]:
    """The phase of a `training` that lists none."""
    turns = said.get("turns") if isinstance(said, Mapping) else None
    return {"learn": "denoiser", "turns": turns}


def _phase(
    index: int,
    path: Path,
    said: Mapping[str, Any],
    base: dict[str, Any],
    stages: Sequence[str],
    stage: str,
    implied: bool,
    findings: Findings,
) -> PhaseSaid:
    own = {} if implied else _level(said, path, PHASE, findings)
    learn = said.get("learn", "denoiser")
    if learn not in LEARNERS:
        findings.problem((*path, "learn"), "must be the role that learns", got=learn, allowed=LEARNERS)
        learn = "denoiser"
    if "stage" in said and said["stage"] not in stages:
        problem = "must be the name of a stage" if stages else "is only for a cascade, which has stages"
        findings.problem((*path, "stage"), problem, got=said["stage"], allowed=stages or None)
    elif "stage" not in said and stages and not stage:
        findings.problem((*path, "stage"), "is missing: a cascade's phase names its stage", allowed=stages)
    merged = _over(base, own)
    descent = Descent(**merged)
    if descent.batch % descent.accumulate:
        at = next((p for p in ((*path, "batch"), (*path, "accumulate")) if p[-1] in own), ("training", "batch"))
        findings.problem(at, f"must divide into {descent.accumulate} micro-batches", got=descent.batch)
    _check_optimizer(
        descent.optimizer, (*path, "optimizer") if "optimizer" in own else ("training", "optimizer"), findings
    )
    turns = _turns(said.get("turns"), (*path, "turns"), findings)
    if "learner" in turns:
        descent = Descent(**{**merged, **turns.pop("learner")})
    return PhaseSaid(index, path, learn, str(said.get("stage", stage)), said.get("objective"), descent, turns)


def _turns(said: Any, path: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        findings.problem(path, "must be a mapping of turns, {discriminator: {lr: 2e-4}}", got=said)
        return {}
    turns = {}
    for name, settings in said.items():
        turns[str(name)] = _level(settings, (*path, str(name)), TURN, findings)
        _check_optimizer(turns[str(name)].get("optimizer", "adamw"), (*path, str(name), "optimizer"), findings)
    return turns


def _level(said: Any, path: Path, known: Iterable[str], findings: Findings) -> dict[str, Any]:
    """The settings of a descent in one mapping of the recipe, checked; unknown keys are findings."""
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        findings.problem(path, "must be a mapping", got=said)
        return {}
    known = tuple(known)
    for key in said:
        if key not in known:
            hint = nearest(str(key), known) or f"; allowed: {', '.join(known)}"
            findings.problem((*path, str(key)), f"unknown setting{hint}")
    values, wrong = check_fields(
        Descent, {key: value for key, value in said.items() if key in DESCENT and key in known}
    )
    findings.settings(path, wrong)
    if values.get("steps") is not None and values.get("budget") is not None:
        findings.problem((*path, "budget"), "stands beside steps; give one of the two")
        del values["budget"]
    budget = values.get("budget")
    if isinstance(budget, Budget) and sum(x is not None for x in (budget.flops, budget.samples, budget.tokens)) != 1:
        findings.problem((*path, "budget"), "must be exactly one of flops, samples, tokens")
        del values["budget"]
    return values


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings laid over those around them; steps displace a budget, and a budget steps."""
    merged = {**base, **own}
    for given, displaced in (("steps", "budget"), ("budget", "steps")):
        if own.get(given) is not None:
            merged[displaced] = None
    return merged


def _check_optimizer(name: str, path: Path, findings: Findings) -> None:
    if name == "adamw":
        return
    import timm.optim

    known = ["adamw", *timm.optim.list_optimizers()]
    if name not in known:
        findings.problem(path, "unknown optimizer", got=name, allowed=known)
