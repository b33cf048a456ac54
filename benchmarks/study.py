"""Studies: what is compared, as a file or from the command line, and the work it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mutoscope.benchmarks.evaluation import Protocol
from mutoscope.core.errors import InputError
from mutoscope.core.storage.checkpoint import newest, read_checkpoint
from mutoscope.registry.addresses import digest
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.documents import Node, Place
from mutoscope.registry.recipe import COMMAND_LINE, PARTS, Recipe, load_recipe
from mutoscope.registry.runs import RUNS
from mutoscope.registry.shipped import find_recipe, find_study

UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
"""What a name on the disk does not hold."""


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
    arms: dict[str, dict[str, Any] | None] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    match: str = Field("flops", pattern="^(flops|steps)$")
    evaluate: Evaluated = Evaluated()
    show: int = Field(6, ge=0, le=64)
    untrained: bool = True


@dataclass(frozen=True)
class Arm:
    """One thing compared: its resolved recipe, what it costs (from `describe`), and its runs by seed where they are
    finished ones; none are trained then."""

    name: str
    recipe: Recipe
    cost: Mapping[str, Any]
    finished: Mapping[int, Path] = field(default_factory=dict)


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
    def finished(self) -> bool:
        """Whether it compares finished runs."""
        return any(arm.finished for arm in self.arms)

    def pairs(self) -> list[tuple[int, Arm]]:
        """(seed, arm) of every run, in the order of the work: all arms at the first seed, then at the next."""
        return [(seed, arm) for seed in self.seeds for arm in self.arms if not arm.finished or seed in arm.finished]

    def default_folder(self) -> Path:
        """`runs/NAME-HASH8`, where the same study always goes."""
        content = [[arm.name, arm.recipe.data, [str(run) for run in arm.finished.values()]] for arm in self.arms]
        return RUNS / f"{self.name}-{digest([content, self.seeds, asdict(self.protocol)])[:8]}"

    def recipe(self, arm: Arm, seed: int) -> Recipe:
        """The arm's recipe at a seed. A phase with a seed of its own keeps it: so arms share an autoencoder."""
        if arm.finished:
            return load_recipe(str(arm.finished[seed] / "recipe.yaml"))
        return arm.recipe.replace(("training", "seed"), seed)


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
    finished = bool(named) and all((Path(word) / "recipe.yaml").is_file() for word in named)
    if swaps:
        if len(named) != 1:
            raise InputError(f"--swap changes one recipe; got {len(named)} names")
        said: dict[str, list[str]] = {}
        for role, words in map(_swap, swaps):
            said[role] = [*said.get(role, []), *words]
        study = swap_study(named[0], said, range(seeds or 1), plugins, overrides)
    elif finished:
        if overrides or seeds:
            raise InputError(
                f"finished runs are scored as they are; {' '.join(overrides) or '--seeds'} changes nothing"
            )
        study = run_study_of(named, plugins)
    elif len(named) == 1:
        study = read_study(named[0], overrides, plugins)
    else:
        raise InputError(f"compare takes one study, one recipe with --swap, or run folders; got {', '.join(named)}")
    if seeds and not finished:
        study = replace(study, seeds=tuple(range(seeds)))
    if clips or split:
        protocol = replace(study.protocol, clips=clips or study.protocol.clips, split=split or study.protocol.split)
        study = replace(study, protocol=protocol)
    check_protocol(study)
    return study


def _swap(word: str) -> tuple[str, list[str]]:
    role, equals, words = word.partition("=")
    listed = [w for w in words.split(",") if w]
    if not equals or not listed or role not in PARTS:
        raise InputError(field="--swap", problem="is ROLE=A,B", got=word, allowed=f"roles {', '.join(PARTS)}")
    return role, list(dict.fromkeys(listed))


def read_study(name: str, overrides: Sequence[str] = (), plugins: Sequence[Path] = ()) -> Study:
    """A study by path or shipped name. overrides: of the study's own keys (`show=2`), else of its base recipe. Raises
    InputError naming file, line and field."""
    own = [word for word in overrides if re.split(r"[.=]", word)[0] in StudyFile.model_fields]
    file = load_recipe(name, own, kind="study")
    path = find_study(name)
    try:
        said = StudyFile.model_validate(file.data)
    except ValidationError as invalid:
        raise _invalid(file, invalid) from None
    if len(set(said.seeds)) < len(said.seeds):
        raise file.problem("seeds", "names a seed twice", said.seeds)
    beside = path.parent / said.recipe
    base = beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else said.recipe
    try:
        find_recipe(str(base))
    except InputError as missing:
        raise file.problem("recipe", missing.problem, said.recipe, missing.allowed) from None
    arms = file.root.child("arms")
    assert arms is not None
    return build_study(
        name=path.stem, title=said.title or path.stem, question=said.question, base=str(base),
        arms={arm: node.value or {} for arm, node in arms.value.items()}, seeds=said.seeds, match=said.match,
        protocol=Protocol(**said.evaluate.model_dump()), show=said.show, untrained=said.untrained,
        overrides=[word for word in overrides if word not in own], plugins=plugins,
    )  # fmt: skip


def _invalid(file: Recipe, invalid: ValidationError) -> InputError:
    """What is wrong first in a study file."""
    first = invalid.errors()[0]
    at, model = tuple(first["loc"]), Evaluated if first["loc"][:1] == ("evaluate",) else StudyFile
    if first["type"] == "extra_forbidden":
        return file.problem(at, "unknown key", at[-1], list(model.model_fields))
    if first["type"] == "missing":
        return file.problem(at, "is missing")
    return file.problem(at, str(first["msg"]).replace("Input should be", "must be"), first.get("input"))


def run_study_of(runs: Sequence[str], plugins: Sequence[Path] = ()) -> Study:
    """A study of finished runs: nothing is trained, all are scored by one protocol.

    Runs whose recipes differ in nothing but the seed are seeds of one arm. Raises InputError on a run that is not
    finished, and on two runs of one recipe and seed.
    """
    recipes = {Path(run): load_recipe(str(Path(run) / "recipe.yaml")) for run in runs}
    named = [*(path.resolve() for path in plugins), *(path for recipe in recipes.values() for path in recipe.plugins)]
    catalog = Catalog.load(list(dict.fromkeys(named)))
    alike: dict[str, dict[int, Path]] = {}
    for run, recipe in recipes.items():
        _check_finished(run)
        seed = int(recipe.get("training.seed", 0))
        mine = alike.setdefault(digest({**recipe.without("training.seed").data, "name": ""}), {})
        if seed in mine:
            raise InputError(f"{mine[seed]} and {run} are the same recipe at the same seed; compare one of them")
        mine[seed] = run
    arms = []
    for mine in alike.values():
        first = next(iter(mine.values()))
        name = first.resolve().name if len(mine) == 1 else recipes[first].name
        arms.append(Arm(name, recipes[first], describe(recipes[first], catalog), mine))
    _check_names([arm.name for arm in arms])
    return Study(
        name=f"runs-{digest([str(run.resolve()) for run in recipes])[:8]}",
        title=" against ".join(arm.name for arm in arms),
        question="",
        arms=tuple(arms),
        seeds=tuple(sorted({seed for arm in arms for seed in arm.finished})),
        match="as trained",
        protocol=Protocol(),
        show=6,
        untrained=True,
        catalog=catalog,
    )


def _check_finished(run: Path) -> None:
    found = newest(run / "checkpoints")
    if found is None:
        raise InputError(f"{run} has no checkpoint that verifies; `mutoscope status {run}` shows how far it is")
    state = read_checkpoint(found)[1]
    if not state["done"]:
        raise InputError(f"{run} is not finished; `mutoscope train {run / 'recipe.yaml'} --out {run}` goes on with it")


def _check_names(names: Sequence[str]) -> None:
    """Raises InputError where two arms would write to one folder."""
    seen: dict[str, str] = {}
    for name in names:
        safe = UNSAFE.sub("-", name).strip("-.")
        if not safe:
            raise InputError(field="arms", problem="an arm's name needs a letter or a digit", got=name)
        if safe in seen:
            raise InputError(f"two arms have one name: {seen[safe]} and {name}")
        seen[safe] = name


def check_protocol(study: Study) -> None:
    """Raises InputError before any work where the arms' data cannot be scored by the protocol, or differ."""
    prints: dict[str, str] = {}
    for arm in study.arms:
        dataset = assemble(arm.recipe, study.catalog, device="meta").dataset
        if study.protocol.split not in dataset.splits():
            raise InputError(
                field="split", problem="the data has no such split", got=study.protocol.split,
                allowed=list(dataset.splits()),
            )  # fmt: skip
        length = dataset.length(study.protocol.split)
        if length < study.protocol.clips:
            raise InputError(
                field="clips", problem=f"the {study.protocol.split} split has {length}", got=study.protocol.clips
            )
        prints.setdefault(dataset.fingerprint(), arm.name)
    if len(prints) > 1:
        a, b, *_ = prints.values()
        raise InputError(f"{a} and {b} have different data, so their scores do not share a table")


def swap_study(
    recipe: str,
    swaps: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    plugins: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    clips: int = 256,
) -> Study:
    """A study of one recipe with parts swapped by word: `{"denoiser": ["dit", "unet3d"]}`; two roles make a grid."""
    arms: dict[str, dict[str, Any]] = {"": {}}
    for role, words in swaps.items():
        said = {word: Node.of(word, Place(COMMAND_LINE)) for word in words}
        arms = {
            f"{name} {word}".strip(): {**changes, role: said[word]} for name, changes in arms.items() for word in words
        }
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
    """Resolves every arm, assembles it on the meta device, and matches the budgets.

    arms: by name, what each changes by dotted key; a value may be a node that knows where it was written.
    """
    _check_names(list(arms))
    recipe = load_recipe(base, overrides)
    catalog = Catalog.load([*plugins, *recipe.plugins])
    built: list[Arm] = []
    for arm, changes in arms.items():
        own = recipe
        for key, value in changes.items():
            own = own.replace(tuple(key.split(".")), value)
        own = own.replace(("name",), f"{recipe.name}-{UNSAFE.sub('-', arm).strip('-.')}")
        if plugins:
            named = [str(path.resolve()) for path in plugins]
            own = own.replace(("plugins",), list(dict.fromkeys([*own.data.get("plugins", ()), *named])))
        built.append(Arm(arm, own, describe(own, catalog)))
    for arm in built:
        if not arm.cost["phases"]:
            raise InputError(f"arm {arm.name}: its recipe trains nothing, so there is nothing to compare")
    matched, notes = _matched(built) if match == "flops" else (built, ())
    return Study(
        name, title, question, tuple(matched), tuple(seeds), match, protocol, show, untrained, catalog, tuple(notes)
    )


def _matched(arms: list[Arm]) -> tuple[list[Arm], list[str]]:
    """Arms whose last phases spend the FLOPs of the first arm's; never a step more than the budget allows."""
    for arm in arms:
        if not arm.cost["phases"][-1]["flops_per_step"]:
            raise InputError(
                f"arm {arm.name}: a step's FLOPs cannot be counted; a study with `match: steps` can be run"
            )
    budget = arms[0].cost["phases"][-1]["flops"]
    matched, notes = [], []
    for arm in arms:
        steps = int(budget // arm.cost["phases"][-1]["flops_per_step"])
        if steps < 1:
            raise InputError(f"arm {arm.name}: one step costs more than the whole budget of {budget:.3g} FLOPs")
        recipe = arm.recipe.replace(_steps_of_last(arm), steps)
        *before, plan = arm.cost["phases"]
        plan = {**plan, "steps": steps, "flops": steps * plan["flops_per_step"]}
        matched.append(replace(arm, recipe=recipe, cost={**arm.cost, "phases": [*before, plan]}))
        notes.append(f"{arm.name}: {steps} steps of {arm.cost['phases'][-1]['flops_per_step']:.3g} FLOPs")
    return matched, notes


def _steps_of_last(arm: Arm) -> tuple[str | int, ...]:
    """Where the recipe says, or may say, how many steps its last phase has."""
    data, at = arm.recipe.data, ()
    training = data.get("training") or {}
    if data.get("stages") and not training.get("phases"):
        stage = arm.cost["phases"][-1]["name"].rpartition(".")[0]
        place = next(i for i, said in enumerate(data["stages"]) if str(said.get("name", i)) == stage)
        at, training = ("stages", place), data["stages"][place].get("training") or {}
    if phases := training.get("phases"):
        return (*at, "training", "phases", len(phases) - 1, "steps")
    return (*at, "training", "steps")
