"""Assembly: a recipe becomes a model and a plan, or one error that says everything that does not fit.

Everything is constructed on the meta device first, where nothing costs memory; only what fits is built for real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import InputError
from mutoscope.core.metric import Metric
from mutoscope.core.model import Cascade, Model
from mutoscope.core.training.plan import Budget, Descent, Phase, Plan
from mutoscope.registry.building import Builder, Findings, Made
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.counting import StepCost, step_cost
from mutoscope.registry.mismatches import Ledger
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.repairs import lines
from mutoscope.registry.stages import Stage, StageBuilder, stages_said
from mutoscope.registry.training import PhaseSaid, TrainingSaid, read_training

META = torch.device("meta")


@dataclass(frozen=True)
class Assembled:
    """A recipe as working parts.

    made: every part by address, nested ones too. stages: of a cascade, else one without a name.
    """

    model: Model | Cascade
    dataset: Dataset
    plan: Plan
    metrics: tuple[Metric, ...]
    recipe: Recipe
    made: Mapping[str, Made] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()


def assemble(
    recipe: Recipe, catalog: Catalog, device: torch.device | str = "cpu", seed: int | None = None
) -> Assembled:
    """The model of a recipe on a device, and the plan of its training.

    device: on `meta` the parts have shapes but no memory, metrics are not built, and phases may lack their steps.
    seed: of weights, data and draws, in place of the recipe's. Raises InputError with one line per finding; DataError
    when the data is unusable.
    """
    hosted: dict[str, Any] = {}
    findings = Findings(recipe)
    sketch = pass_over(recipe, catalog, META, seed, hosted, findings)
    if sketch is None:
        raise InputError("\n".join(lines(recipe, catalog, findings, hosted, attempt)))
    device = torch.device(device)
    if device.type == "meta":
        return sketch
    for i, phase in enumerate(sketch.plan.phases):
        if phase.descent.steps is None:
            path = (
                ("training", "phases", i, "steps")
                if recipe.data.get("training", {}).get("phases")
                else ("training", "steps")
            )
            findings.problem(path, f"is missing: phase {phase.name} has neither steps nor a budget")
    if not sketch.plan.phases:
        findings.problem(("training", "phases"), "is missing: there is no denoiser, and nothing says what learns")
    built = None if findings.any else pass_over(recipe, catalog, device, seed, hosted, findings, sketch.plan)
    if built is None:
        raise InputError("\n".join(str(error) for _, _, error in findings.problems))
    return built


def attempt(recipe: Recipe, catalog: Catalog, hosted: dict[str, Any]) -> Findings:
    """What is wrong with a recipe."""
    findings = Findings(recipe)
    pass_over(recipe, catalog, META, None, hosted, findings, counting=False)
    return findings


def pass_over(
    recipe: Recipe,
    catalog: Catalog,
    device: torch.device,
    seed: int | None,
    hosted: dict[str, Any],
    findings: Findings,
    plan: Plan | None = None,
    counting: bool = True,
) -> Assembled | None:
    """Builds every part of a recipe once; None after a finding. plan: whose descents are taken over, counted."""
    said = stages_said(recipe, findings)
    training = read_training(recipe.data, said, findings, seed)
    builder = Builder(recipe, catalog, findings, device, hosted)
    data = recipe.data.get("data")
    dataset = None
    if data is None:
        findings.problem(("data",), "is missing: a recipe names its data")
    else:
        dataset = builder.part("data", ("data",), "data", data, Ledger())
    ledger = Ledger().without("data") if dataset is None else Ledger().publish(dataset.facts(), ("data",))
    stages = StageBuilder(builder, training).build(recipe.data, said, ledger)
    metrics = _metrics(recipe, builder, ledger)
    if findings.any or dataset is None or any(stage.model is None for stage in stages):
        return None
    models = {stage.name: stage.whole for stage in stages}
    model = Cascade(models) if said else models[""]
    model.recipe = recipe.data
    views = {stage.name: (stage.whole.clip.frames, stage.whole.clip.size) for stage in stages}
    if plan is None:
        phases = _counted_phases(training, stages, findings, counting)
    else:
        phases = tuple(
            replace(p, objective=_stage_of(stages, p.stage).objectives[i]) for i, p in enumerate(plan.phases)
        )
    if findings.any:
        return None
    return Assembled(
        model, dataset, Plan(dataset, phases, training.seed, views), metrics, recipe, dict(builder.made), tuple(stages)
    )


def _metrics(recipe: Recipe, builder: Builder, ledger: Ledger) -> tuple[Metric, ...]:
    """The metrics; on the meta device they are only checked."""
    built = []
    for i, said in enumerate(recipe.data.get("metrics") or ()):
        built.append(builder.part("metric", ("metrics", i), f"metrics.{i}", said, ledger))
    return tuple(metric for metric in built if isinstance(metric, Metric))


# Phases


def _counted_phases(
    training: TrainingSaid, stages: list[Stage], findings: Findings, counting: bool
) -> tuple[Phase, ...]:
    phases = []
    for said in training.phases:
        stage = _stage_of(stages, said.stage)
        if not stage.learns(said, findings):
            continue
        objective = stage.objectives[said.index]
        opponents = tuple(objective.opponents())
        for turn in said.turns:
            if turn not in opponents:
                findings.problem((*said.path, "turns", turn), "unknown turn", got=turn, allowed=("learner", *opponents))
        steps = said.descent.steps
        if said.descent.budget is not None and counting:
            steps = _steps(said, stage, findings)
        descent = replace(said.descent, steps=steps)
        turns = {turn: replace(said.turn(turn), steps=steps) for turn in said.turns}
        phases.append(Phase(said.name, said.learn, objective, descent, turns, said.stage))
    return tuple(phases)


def phase_cost(stage: Stage, learn: str, index: int, descent: Descent) -> StepCost | None:
    """What one step of a phase costs, counted on the meta device."""
    return step_cost(stage.whole, learn, stage.objectives[index], descent.batch, descent.accumulate, stage.facts)


def _steps(said: PhaseSaid, stage: Stage, findings: Findings) -> int | None:
    """A budget in steps: as many as it pays for, at least one."""
    budget, batch = said.descent.budget, said.descent.batch
    assert isinstance(budget, Budget)
    if budget.samples is not None:
        return max(1, budget.samples // batch)
    if budget.tokens is not None:
        if said.learn != "denoiser":
            findings.problem(
                (*said.path, "budget"), "of tokens is for a denoiser; give flops or samples", got=said.learn
            )
            return None
        return max(1, budget.tokens // (batch * stage.tokens))
    cost = phase_cost(stage, said.learn, said.index, said.descent)
    if cost is None or cost.flops == 0:
        findings.problem(
            (*said.path, "budget"), f"of flops needs a {said.learn} whose FLOPs can be counted; give steps"
        )
        return None
    assert budget.flops is not None
    return max(1, int(budget.flops // cost.flops))


def _stage_of(stages: list[Stage], name: str) -> Stage:
    return next(stage for stage in stages if stage.name == name)
