"""Fair comparisons: networks sized to a target, and budgets turned into steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import Any

from mutoscope.core.errors import InputError
from mutoscope.registry.addresses import digest
from mutoscope.registry.assembly import META, Assembled, assemble, pass_over, phase_cost
from mutoscope.registry.building import Findings
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.counting import sampling_flops
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import Recipe

WIDEST = 4096
"""Largest width that is tried."""
STRAY = 1.5
"""By what factor a network's width over depth may leave that of its recipe, before a nearer match stops counting."""


@dataclass(frozen=True)
class Arm:
    """One thing compared.

    recipe: resolved; of an arm that is a folder of videos, whose data and metrics are meant. cost: from `describe`,
    with the `batch` and the `clip_tokens` of the compared phase; empty for videos. finished: runs by seed where they
    are finished ones, so that none are trained. videos: a folder of clips of another generator. said: what the arm is
    on each axis, by the axis' key. aim: the budget that is its own.
    """

    name: str
    recipe: Recipe
    cost: Mapping[str, Any] = field(default_factory=dict)
    finished: Mapping[int, Path] = field(default_factory=dict)
    videos: Path | None = None
    aim: Budget | None = None

    @property
    def phase(self) -> Mapping[str, Any]:
        """The phase that is compared: the last."""
        return self.cost["phases"][-1]


@dataclass(frozen=True)
class Budget:
    """What every arm may spend. amount: None for what the first arm's recipe spends. over: `phase`, or `all` of a run."""

    kind: str
    amount: float | None = None
    over: str = "phase"


@dataclass(frozen=True)
class Match:
    """What denoisers are sized to: `parameters` or `flops_per_step`, an amount or None for the first arm's."""

    kind: str
    amount: float | None
    by: tuple[str, ...] = ("width", "depth")
    within: float = 0.05


def costed(name: str, recipe: Recipe, catalog: Catalog, known: dict[str, Mapping[str, Any]] | None = None) -> Arm:
    """An arm with what it costs. Raises InputError where the recipe trains nothing.

    known: costs of recipes that differ in how they are sampled alone, to be taken from and added to: most of what is
    counted, the steps of training, is the same for them.
    """
    known = {} if known is None else known
    key = digest({k: v for k, v in recipe.data.items() if k not in ("name", "sampler", "metrics")})
    sketch = assemble(recipe, catalog, device="meta")
    if key in known:
        cost = {**known[key], "name": recipe.name, **_sampled(sketch, known[key]["parts"])}
    else:
        cost = known[key] = describe(recipe, catalog)
    if not cost["phases"]:
        raise InputError(f"arm {name}: its recipe trains nothing, so there is nothing to compare")
    phase = sketch.plan.phases[-1]
    stage = next(s for s in sketch.stages if s.name == phase.stage)
    return Arm(name, recipe, {**cost, "batch": phase.descent.batch, "clip_tokens": stage.tokens})


def _sampled(sketch: Assembled, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `describe` says of sampling, where all else of the parts is known."""
    told, spent = dict(parts), []
    for stage in sketch.stages:
        at = f"{stage.name}." if stage.name else ""
        told[f"{at}sampler"] = {**told[f"{at}sampler"], "type": stage.whole.sampler.name}
        spent.append(sampling_flops(stage.whole, stage.facts, parts[f"{at}denoiser"]["flops"]))
    return {"parts": told, "sampling_flops": None if None in spent else sum(spent)}


# Budgets


def budgeted(arms: Sequence[Arm], budget: Budget | None) -> tuple[list[Arm], list[str]]:
    """Arms whose last phases spend a budget, never a step more than it allows; and what that means, in words.

    budget: of arms that have none of their own; None leaves those as they are. A budget of seconds is left open: its
    steps are known once a machine has been timed.
    """
    trained = [arm for arm in arms if not arm.videos]
    aim = replace(budget, amount=_amount(trained[0], budget)) if budget and budget.amount is None else budget
    told: list[Arm] = []
    notes = []
    for arm in arms:
        own = arm.aim or aim
        if arm.videos or own is None:
            told.append(arm)
            continue
        if own.kind == "seconds":
            told.append(replace(arm, aim=own))
            continue
        each, before = _spending(arm, own.kind), _before(arm, own)
        steps = int((own.amount - before) // each)  # type: ignore[operator]
        if before >= own.amount:  # type: ignore[operator]
            raise InputError(
                f"arm {arm.name}: its earlier phases cost {before:.3g} {own.kind}, more than the budget of {own.amount:.3g}"
            )
        if steps < 1:
            raise InputError(
                f"arm {arm.name}: one step costs more than the whole budget of {own.amount:.3g} {own.kind.upper() if own.kind == 'flops' else own.kind}"
            )
        told.append(with_steps(replace(arm, aim=own), steps))
        per = arm.phase["flops_per_step"]
        notes.append(f"{arm.name}: {steps} steps" + (f" of {per:.3g} FLOPs" if per else ""))
    return told, notes


def with_steps(arm: Arm, steps: int) -> Arm:
    """The arm with so many steps in its last phase."""
    recipe = arm.recipe.replace(place_of_last(arm, "steps"), steps)
    *before, plan = arm.cost["phases"]
    flops = steps * plan["flops_per_step"] if plan["flops_per_step"] is not None else None
    plan = {**plan, "steps": steps, "flops": flops}
    return replace(arm, recipe=recipe, cost={**arm.cost, "phases": [*before, plan]})


def _amount(arm: Arm, budget: Budget) -> float:
    """What the first arm spends as its recipe stands."""
    if arm.phase["steps"] is None:
        raise InputError(f"arm {arm.name}: is the measure of the budget and gives neither steps nor a budget")
    return _before(arm, budget) + arm.phase["steps"] * _spending(arm, budget.kind)


def _spending(arm: Arm, kind: str) -> float:
    """What a step of the compared phase spends. Raises InputError where that cannot be said."""
    match kind:
        case "steps":
            return 1
        case "samples":
            return arm.cost["batch"]
        case "tokens":
            return arm.cost["batch"] * arm.cost["clip_tokens"]
    if not arm.phase["flops_per_step"]:
        raise InputError(f"arm {arm.name}: a step's FLOPs cannot be counted; a study with `match: steps` can be run")
    return arm.phase["flops_per_step"]


def _before(arm: Arm, budget: Budget) -> float:
    """What earlier phases spend of the budget: nothing where it is over the compared phase alone."""
    if budget.over != "all":
        return 0.0
    before = arm.cost["phases"][:-1]
    if budget.kind == "steps":
        return float(sum(phase["steps"] for phase in before))
    if budget.kind != "flops":
        raise InputError("budget: over: all is for budgets of flops and of steps; samples and tokens are a phase's own")
    if any(phase["flops"] is None for phase in before):
        raise InputError(f"arm {arm.name}: an earlier phase's FLOPs cannot be counted, so that they cannot be budgeted")
    return float(sum(phase["flops"] for phase in before))


def place_of_last(arm: Arm, setting: str) -> tuple[str | int, ...]:
    """Where the recipe has, or may have, a setting of its last phase's descent."""
    data, at = arm.recipe.data, ()
    training = data.get("training") or {}
    if data.get("stages") and not training.get("phases"):
        stage = arm.phase["name"].rpartition(".")[0]
        place = next(i for i, said in enumerate(data["stages"]) if str(said.get("name", i)) == stage)
        at, training = ("stages", place), data["stages"][place].get("training") or {}
    if phases := training.get("phases"):
        return (*at, "training", "phases", len(phases) - 1, setting)
    return (*at, "training", setting)


# Sizes


def sized(arms: Sequence[Arm], match: Match, catalog: Catalog) -> tuple[list[Arm], list[str]]:
    """Arms whose denoisers have the target's parameters, or whose steps have its FLOPs, by width and depth.

    The shape stays near the recipe's own: of all widths and depths that come within 1% of the target, the one whose
    width over depth strays least. A part that has neither setting is left as it is where it fits. Raises InputError on
    one that does not come within the tolerance.
    """
    trained = [arm for arm in arms if not arm.videos]
    amount = match.amount if match.amount is not None else _size(trained[0].recipe, match.kind, catalog)
    if not amount:
        raise InputError(f"arm {trained[0].name}: its {match.kind} cannot be counted, so that no other can match them")
    told, notes = [], []
    for arm in arms:
        if arm.videos:
            told.append(arm)
            continue
        recipe, size = _sized(arm, match, float(amount), catalog)
        arm = replace(costed(arm.name, recipe, catalog), aim=arm.aim)
        told.append(arm)
        said = ", ".join(f"{key} {recipe.get(f'denoiser.{key}')}" for key in match.by if recipe.get(f"denoiser.{key}"))
        share = size / amount
        notes.append(
            f"{arm.name}: {match.kind} {size:,.0f}, {100 * share:.1f}% of the target ({said or 'as it stands'})"
        )
    return told, notes


def _sized(arm: Arm, match: Match, amount: float, catalog: Catalog) -> tuple[Recipe, float]:
    """The recipe of the best size, and what it comes to."""
    start = _settings(arm, catalog)
    by = [key for key in match.by if key in start]
    tried: dict[tuple[int, int], float | None] = {}

    def measure(width: int, depth: int) -> float | None:
        if (width, depth) not in tried:
            tried[width, depth] = _size(_changed(arm.recipe, by, width, depth), match.kind, catalog)
        return tried[width, depth]

    width, depth = start.get("width", 1), start.get("depth", 1)
    step = start["heads"] * 2 if start.get("heads") else 2
    grain = max(step, gcd(width, 8)) if "width" in by else 1
    depths = _depths(depth) if "depth" in by else [depth]
    for d in depths:
        if "width" in by:
            _bisect(lambda w, d=d: measure(w, d), grain, amount)
        else:
            measure(width, d)
        near = [k for k, v in tried.items() if v is not None and abs(v / amount - 1) <= min(0.01, match.within)]
        if any(_stray(k, width, depth) <= STRAY for k in near):
            break
    measured = {k: v for k, v in tried.items() if v is not None}
    if not measured:
        raise InputError(
            f"arm {arm.name}: its {match.kind} cannot be counted at any size, so that they cannot be matched"
        )
    close = {k: v for k, v in measured.items() if abs(v / amount - 1) <= 0.01} or measured
    best = min(
        close,
        key=lambda k: (_stray(k, width, depth) if len(close) < len(measured) else 0, abs(measured[k] / amount - 1)),
    )
    if abs(measured[best] / amount - 1) > match.within:
        raise InputError(
            f"arm {arm.name}: comes no nearer to {amount:,.0f} {match.kind} than {measured[best]:,.0f} by "
            f"{' and '.join(by) or 'any setting'}; widen `within`, or change its recipe"
        )
    return _changed(arm.recipe, by, *best), measured[best]


def _settings(arm: Arm, catalog: Catalog) -> dict[str, int]:
    """Width, depth and heads of the arm's denoiser, as its recipe or its constructor has them."""
    import inspect

    said = arm.recipe.get("denoiser") or {}
    said = {"type": said} if isinstance(said, str) else said
    part = catalog.find("denoiser", str(said.get("type")))
    if part is None:
        raise InputError(
            f"arm {arm.name}: has no one denoiser that could be sized; a study of cascades matches budgets"
        )
    found = {}
    for key in ("width", "depth", "heads"):
        parameter = inspect.signature(part.__init__).parameters.get(key)
        value = said.get(key, parameter.default if parameter is not None else None)
        if isinstance(value, int) and parameter is not None:
            found[key] = value
    return found


def _depths(depth: int) -> list[int]:
    """The recipe's own first, then its neighbours, to half and to twice."""
    near = sorted(range(max(1, depth // 2), 2 * depth + 1), key=lambda d: (abs(d - depth), d))
    return near[:7]


def _bisect(measure: Callable[[int], float | None], grain: int, amount: float) -> None:
    """Measures widths around the one at which a growing quantity crosses the target."""
    low, high = 1, max(2, WIDEST // grain)
    while high - low > 1:
        middle = (low + high) // 2
        value = next(
            (v for m in (middle, middle + 1, middle + 2, middle + 4) if (v := measure(m * grain)) is not None), None
        )
        if value is not None and value <= amount:
            low = middle
        else:
            high = middle
    for place in (low - 1, low, high, high + 1):
        if place >= 1:
            measure(place * grain)


def _stray(size: tuple[int, int], width: int, depth: int) -> float:
    """By what factor a size's shape, width over depth, leaves the recipe's."""
    ratio = (size[0] / size[1]) / (width / depth)
    return max(ratio, 1 / ratio)


def _changed(recipe: Recipe, by: Iterable[str], width: int, depth: int) -> Recipe:
    for key, value in (("width", width), ("depth", depth)):
        if key in by:
            recipe = recipe.replace(("denoiser", key), value)
    return recipe


def _size(recipe: Recipe, kind: str, catalog: Catalog) -> float | None:
    """The size of a recipe; None where no network of that size can be built, or its FLOPs cannot be counted."""
    sketch = pass_over(recipe, catalog, META, None, {}, Findings(recipe), counting=False)
    if sketch is None:
        return None
    if kind == "parameters":
        return float(sum(p.numel() for stage in sketch.stages for p in stage.whole.denoiser.parameters()))
    phase = sketch.plan.phases[-1]
    stage = next(s for s in sketch.stages if s.name == phase.stage)
    cost = phase_cost(stage, phase.learn, len(sketch.plan.phases) - 1, phase.descent)
    return None if cost is None else float(cost.flops)
