"""The file of a study: a strict schema, read with the line of everything that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mutoscope.core.errors import InputError
from mutoscope.registry.documents import Node
from mutoscope.registry.recipe import KEYS, Recipe

Kind = Literal["flops", "samples", "tokens", "seconds", "steps"]
"""What a budget can be of."""
KINDS: tuple[str, ...] = get_args(Kind)
Seed = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(gt=0)]
OWN = ("recipe", "videos", "budget")
"""What an arm may say beside changes of its recipe; `budget.flops` too."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Evaluated(Strict):
    """`evaluate:` of a study file; see `Protocol`. shares: of the budget, at which runs are scored on their way."""

    split: str = "test"
    clips: int = Field(256, ge=2)
    reference: int = Field(1024, ge=2)
    precision: Literal["float32", "bfloat16"] = "float32"
    shares: list[Annotated[float, Field(gt=0, lt=1)]] = []


class BudgetSaid(Strict):
    """`budget:`: exactly one amount. over: `phase`, the compared one alone, earlier ones apart; or `all` of a run."""

    flops: Amount | None = None
    samples: Amount | None = None
    tokens: Amount | None = None
    seconds: Amount | None = None
    steps: Amount | None = None
    over: Literal["phase", "all"] = "phase"

    @model_validator(mode="after")
    def _one(self) -> BudgetSaid:
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise ValueError(f"must give exactly one of {', '.join(KINDS)}")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def amount(self) -> float:
        return float(getattr(self, self.kind))


class MatchSaid(Strict):
    """`match:`: what every arm's denoiser is sized to, a number or `first` for the first arm's; by: the settings that
    are moved. within: how far, as a share, an arm may end from the target."""

    parameters: Amount | Literal["first"] | None = None
    flops_per_step: Amount | Literal["first"] | None = None
    by: list[Literal["width", "depth"]] = Field(["width", "depth"], min_length=1)
    within: float = Field(0.05, gt=0, lt=1)

    @model_validator(mode="after")
    def _one(self) -> MatchSaid:
        if (self.parameters is None) == (self.flops_per_step is None):
            raise ValueError("must give exactly one of parameters, flops_per_step")
        return self


class Hypothesis(Strict):
    """What the study was made to find out, said before it is run.

    better, than: names of arms; better may be `each`, and than a floor or ceiling (`untrained`, `mean video`).
    """

    metric: str
    better: str
    than: str


class FitSaid(Strict):
    """`fit:` of a scaling study: error = a compute^-b + c, error being 1 - metric where higher is better."""

    metric: str


class StudyFile(Strict):
    """A study as its file says it.

    recipe: the base; an arm may name another one. arms: by name, what each puts in place of the base's parts and
    settings, by dotted key. axes: a grid; by the key that is set, or by any other word whose options say what they
    change; options are a list, or named. common: what every arm has, after its own changes. seeds: of training, the
    same for all arms. match: `flops` gives every arm the training FLOPs of the first one, `steps` leaves the steps as
    they stand, a mapping sizes the arms' denoisers. budget: what the compared, last phase of every arm spends. metrics:
    in place of the recipes'. baselines: arms that the others are compared with; without them all pairs are. show:
    prompts whose videos the report shows. untrained: whether an untrained model is scored, `each` for every arm's own.
    """

    title: str = ""
    question: str = ""
    recipe: str | None = None
    arms: dict[str, dict[str, Any] | None] = Field({}, min_length=1)
    axes: dict[str, Any] = Field({}, min_length=1)
    common: dict[str, Any] = {}
    seeds: list[Seed] = Field(min_length=1)
    match: Any = "flops"
    budget: BudgetSaid | None = None
    metrics: list[Any] | None = None
    baselines: list[str] = []
    hypotheses: list[Hypothesis] = []
    fit: FitSaid | None = None
    evaluate: Evaluated = Evaluated()  # type: ignore[call-arg]
    show: int = Field(6, ge=0, le=64)
    untrained: Literal[True, False, "each"] = True


MODELS: dict[str, type[Strict]] = {
    "evaluate": Evaluated,
    "budget": BudgetSaid,
    "hypotheses": Hypothesis,
    "fit": FitSaid,
}


def checked(file: Recipe) -> StudyFile:
    """Raises InputError naming file, line and field of what is wrong first."""
    try:
        said = StudyFile.model_validate(file.data)
    except ValidationError as invalid:
        raise _invalid(file, invalid, StudyFile) from None
    if isinstance(said.match, Mapping):
        try:
            said.match = MatchSaid.model_validate(dict(said.match))
        except ValidationError as invalid:
            raise _invalid(file, invalid, MatchSaid, ("match",)) from None
    elif said.match not in ("flops", "steps"):
        problem = "must be `flops`, `steps`, or a mapping of parameters or flops_per_step"
        raise file.problem("match", problem, said.match)
    if len(set(said.seeds)) < len(said.seeds):
        raise file.problem("seeds", "names a seed twice", said.seeds)
    if not said.arms and not said.axes:
        raise file.problem("arms", "is missing: a study has arms, axes, or both")
    if said.budget is not None and said.match == "steps":
        raise file.problem("budget", "stands beside `match: steps`, which leaves the steps as they are; give one")
    return said


def arms_of(file: Recipe, said: StudyFile) -> dict[str, dict[str, Any]]:
    """The arms by name, each with what it changes, by dotted key; every arm at every point of the grid.

    Values are nodes that know where they were written. Raises InputError.
    """
    listed = file.root.child("arms")
    arms: dict[str, dict[str, Any]] = {"": {}}
    if said.arms and listed is not None:
        arms = {name: dict(node.value or {}) for name, node in listed.value.items()}
    axes = file.root.child("axes")
    if said.axes and axes is not None:
        points = [_options(file, key, node) for key, node in axes.value.items()]
        arms = {
            " ".join(word for word in (name, *(p[0] for p in point)) if word): {
                **changes, **{k: v for _, more in point for k, v in more.items()}
            }
            for (name, changes), *point in product(arms.items(), *points)
        }  # fmt: skip
    common = file.root.child("common")
    shared = dict(common.value) if common is not None and common.value else {}
    if said.metrics is not None and (node := file.root.child("metrics")) is not None:
        shared["metrics"] = node
    for key in shared:
        if key.partition(".")[0] in OWN:
            raise file.problem(("common", key), "is an arm's own affair")
    return {name: {**changes, **shared} for name, changes in arms.items()}


def _options(file: Recipe, key: str, node: Node) -> list[tuple[str, dict[str, Any]]]:
    """An axis as (word, changes) pairs."""
    names_key = key.partition(".")[0] in (*KEYS, *OWN)
    listed = isinstance(node.value, list)
    if not node.value:
        raise file.problem(("axes", key), "has no options", node.plain())
    options = [(_word(one), one) for one in node.value] if listed else list(node.value.items())
    if len({word for word, _ in options}) < len(options):
        raise file.problem(("axes", key), "names an option twice", node.plain())
    if names_key:
        return [(word if not listed or key in ("recipe",) else _short(key, word), {key: one}) for word, one in options]
    told = []
    for word, one in options:
        if listed or not isinstance(one.value, dict):
            raise file.problem(
                ("axes", key), "is no key of a recipe, so that its options are named mappings of what they change",
                node.plain(), near=KEYS,
            )  # fmt: skip
        told.append((word, dict(one.value)))
    return told


def _word(node: Node) -> str:
    """An option in a word: a part by its name, a list with crosses, anything else as it stands."""
    said = node.plain()
    if isinstance(said, Mapping):
        own = [f"{key} {value}" for key, value in said.items() if key != "type"]
        return " ".join([*([str(said["type"])] if "type" in said else []), *own])
    if isinstance(said, list):
        return "x".join(map(str, said))
    return f"{said:g}" if isinstance(said, float) else str(said)


def _short(key: str, word: str) -> str:
    """`depth 4` for a setting, `dit` for a part."""
    return f"{key.rpartition('.')[2]} {word}" if "." in key else word


def _invalid(
    file: Recipe, invalid: ValidationError, whole: type[Strict], around: tuple[str | int, ...] = ()
) -> InputError:
    """What is wrong first in a study file."""
    first = invalid.errors()[0]
    own = tuple(part for part in first["loc"] if not str(part).startswith(("literal[", "constrained-", "function-")))
    model = MODELS.get(str(own[0]), whole) if len(own) > 1 and whole is StudyFile else whole
    at = (*around, *own)
    if first["type"] == "extra_forbidden":
        return file.problem(at, "unknown key", own[-1], list(model.model_fields))
    if first["type"] == "missing":
        return file.problem(at, "is missing")
    problem = str(first["msg"]).replace("Input should be", "must be").removeprefix("Value error, ")
    return file.problem(at, problem, first.get("input"))
