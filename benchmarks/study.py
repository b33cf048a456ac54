"""Studies: what is compared, as a file or from the command line, and the work it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mutoscope.benchmarks.evaluation import Protocol
from mutoscope.core.errors import InputError
from mutoscope.registry.addresses import digest
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import PARTS, Recipe, load_recipe
from mutoscope.registry.runs import RUNS
from mutoscope.registry.shipped import find_study


class Evaluated(BaseModel):
    """`evaluate:` of a study file; see `Protocol`."""

    model_config = ConfigDict(extra="forbid")
    split: str = "test"
    clips: int = Field(256, ge=2)
    reference: int = Field(1024, ge=2)
    precision: str = Field("float32", pattern="^(float32|bfloat16)$")


class StudyFile(BaseModel):
    """A study as its file says it.

    recipe: the base. arms: by name, what each puts in place of the base's parts and settings, by dotted key. seeds:
    of training, the same for all arms. match: `flops` gives every arm the training FLOPs of the first one's last
    phase, `steps` leaves the steps as they stand. show: prompts whose videos the report shows.
    """

    model_config = ConfigDict(extra="forbid")
    title: str = ""
    question: str = ""
    recipe: str
    arms: dict[str, dict[str, Any]]
    seeds: list[int] = Field(min_length=1)
    match: str = Field("flops", pattern="^(flops|steps)$")
    evaluate: Evaluated = Evaluated()
    show: int = Field(6, ge=0, le=64)
    untrained: bool = True


@dataclass(frozen=True)
class Arm:
    """One thing compared: its resolved recipe, what it costs (from `describe`), and its run where it is finished."""

    name: str
    recipe: Recipe
    cost: Mapping[str, Any]
    run: Path | None = None


@dataclass(frozen=True)
class Study:
    """A study ready to run. arms have their budgets matched; every (arm, seed) is one run."""

    name: str
    title: str
    question: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    match: str
    protocol: Protocol
    show: int
    untrained: bool
    catalog: Catalog
    notes: tuple[str, ...] = field(default=())

    @property
    def runs(self) -> bool:
        """Whether it compares finished runs."""
        return any(arm.run is not None for arm in self.arms)

    def default_folder(self) -> Path:
        """`runs/NAME-HASH8`, where the same study always goes."""
        content = [[arm.name, arm.recipe.data] for arm in self.arms]
        return RUNS / f"{self.name}-{digest([content, self.seeds, asdict(self.protocol)])[:8]}"

    def recipe(self, arm: Arm, seed: int) -> Recipe:
        """The arm's recipe at a seed. A phase with a seed of its own keeps it: that is how arms share an autoencoder."""
        return arm.recipe if arm.run is not None else arm.recipe.replace(("training", "seed"), seed)


def choose_study(
    named: Sequence[str],
    swaps: Sequence[str],
    overrides: Sequence[str],
    plugins: Sequence[Path],
    seeds: int | None,
    clips: int | None,
    split: str | None,
) -> Study:
    """The study that a command line means: a study by name, a recipe with swaps, or finished runs."""
    if swaps:
        if len(named) != 1:
            raise InputError(f"--swap changes one recipe; got {len(named)} names")
        said = dict(_swap(word) for word in swaps)
        study = swap_study(named[0], said, range(seeds or 1), plugins, overrides)
    elif len(named) >= 1 and all((Path(word) / "recipe.yaml").is_file() for word in named):
        study = run_study_of(named, plugins)
    elif len(named) == 1:
        study = read_study(named[0], overrides, plugins)
    else:
        raise InputError(f"compare takes one study, one recipe with --swap, or run folders; got {', '.join(named)}")
    protocol = replace(
        study.protocol,
        **({"clips": clips} if clips else {}),
        **({"split": split} if split else {}),
    )
    return replace(study, protocol=protocol, **({"seeds": tuple(range(seeds))} if seeds and not study.runs else {}))


def _swap(word: str) -> tuple[str, list[str]]:
    role, equals, words = word.partition("=")
    listed = [w for w in words.split(",") if w]
    if not equals or not listed or role not in PARTS:
        raise InputError(field="--swap", problem="is ROLE=A,B", got=word, allowed=f"roles {', '.join(PARTS)}")
    return role, listed


def read_study(name: str, overrides: Sequence[str] = (), plugins: Sequence[Path] = ()) -> Study:
    """A study by path or shipped name. Raises InputError naming file and field."""
    path = find_study(name)
    recipe = load_recipe(str(path), kind="study")
    try:
        said = StudyFile.model_validate(recipe.data)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise recipe.problem(
            tuple(first["loc"]), _problem(first), got=first.get("input"), allowed=list(StudyFile.model_fields)
        ) from None
    base = str(path.parent / said.recipe) if (path.parent / said.recipe).is_file() else said.recipe
    arms = {arm: _settings(changes) for arm, changes in said.arms.items()}
    return build_study(
        name=path.stem, title=said.title or path.stem, question=said.question, base=base, arms=arms,
        seeds=said.seeds, match=said.match, protocol=Protocol(**said.evaluate.model_dump()), show=said.show,
        untrained=said.untrained, overrides=overrides, plugins=plugins,
    )  # fmt: skip


def run_study_of(runs: Sequence[str], plugins: Sequence[Path] = ()) -> Study:
    """A study of finished runs: nothing is trained, all are scored by one protocol."""
    arms: list[Arm] = []
    catalog = Catalog.load(plugins)
    for run in runs:
        recipe = load_recipe(str(Path(run) / "recipe.yaml"))
        catalog = Catalog.load([*plugins, *recipe.plugins])
        name = Path(run).resolve().name
        arms.append(Arm(name, recipe, describe(recipe, catalog), Path(run)))
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError(f"two of the runs have one name: {', '.join(arm.name for arm in arms)}")
    title = " against ".join(arm.name for arm in arms)
    return Study(
        f"runs-{digest([arm.name for arm in arms])[:8]}",
        title,
        "",
        tuple(arms),
        (0,),
        "as trained",
        Protocol(),
        6,
        True,
        catalog,
    )


def swap_study(
    recipe: str,
    swaps: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    plugins: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    clips: int = 256,
) -> Study:
    """A study of one recipe with parts swapped by word: `{"denoiser": ["dit", "unet3d"]}`; several roles make a grid."""
    arms: dict[str, dict[str, Any]] = {"": {}}
    for role, words in swaps.items():
        arms = {f"{name} {word}".strip(): {**changes, role: word} for name, changes in arms.items() for word in words}
    title = " and ".join(f"{role}: {' against '.join(words)}" for role, words in swaps.items())
    return build_study(
        name=f"{Path(recipe).stem}-{'-'.join(swaps)}", title=title, question="", base=recipe, arms=arms, seeds=seeds,
        match="flops", protocol=Protocol(clips=clips), show=6, untrained=True, overrides=overrides, plugins=plugins,
    )  # fmt: skip


def build_study(
    *,
    name: str,
    title: str,
    question: str,
    base: str,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    match: str,
    protocol: Protocol,
    show: int,
    untrained: bool,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path] = (),
) -> Study:
    """Resolves every arm, assembles it on the meta device, and matches the budgets."""
    if not arms:
        raise InputError(f"study {name}: arms: a study compares at least one arm")
    recipe = load_recipe(base, overrides)
    catalog = Catalog.load([*plugins, *recipe.plugins])
    built: list[Arm] = []
    for arm, changes in arms.items():
        own = recipe
        for key, value in changes.items():
            own = own.replace(tuple(key.split(".")), value)
        own = own.replace(("name",), f"{recipe.name}-{arm.replace(' ', '-')}" if arm else recipe.name)
        built.append(Arm(arm or recipe.name, own, describe(own, catalog)))
    matched, notes = _matched(built, catalog) if match == "flops" else (built, ())
    return Study(
        name, title, question, tuple(matched), tuple(seeds), match, protocol, show, untrained, catalog, tuple(notes)
    )


def _matched(arms: list[Arm], catalog: Catalog) -> tuple[list[Arm], list[str]]:
    """Arms whose last phases spend the FLOPs of the first arm's; never a step more than the budget allows."""
    budget = arms[0].cost["phases"][-1]["flops"]
    matched, notes = [], []
    for arm in arms:
        last = len(arm.cost["phases"]) - 1
        steps = int(budget // arm.cost["phases"][-1]["flops_per_step"])
        if steps < 1:
            raise InputError(f"arm {arm.name}: one step costs more than the whole budget of {budget:.3g} FLOPs")
        phases = (arm.recipe.data.get("training") or {}).get("phases")
        place = ("training", "phases", last, "steps") if phases else ("training", "steps")
        recipe = arm.recipe.replace(place, steps)
        matched.append(replace(arm, recipe=recipe, cost=describe(recipe, catalog)))
        notes.append(f"{arm.name}: {steps} steps of {arm.cost['phases'][-1]['flops_per_step']:.3g} FLOPs")
    return matched, notes


def _settings(changes: Mapping[str, Any]) -> dict[str, Any]:
    return dict(changes or {})


def _problem(error: Mapping[str, Any]) -> str:
    return "unknown key" if error["type"] == "extra_forbidden" else str(error["msg"])
