"""Studies: what is compared, as a file or from the command line, and the work it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import Any

from mutoscope.benchmarks.evaluation import Protocol
from mutoscope.benchmarks.matching import Arm, Budget, Match, budgeted, costed, place_of_last, sized
from mutoscope.benchmarks.outside import check_videos, is_videos
from mutoscope.benchmarks.study_file import BudgetSaid, MatchSaid, StudyFile, arms_of, checked
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
FLOORS = ("untrained", "mean video", "copied first frame", "frames shuffled", "captions shuffled")
"""What a hypothesis may hold an arm against beside another arm."""
GRID = 40
"""Places of a phase at which checkpoints for curves may lie."""
EACH = "each"
"""In a hypothesis: every arm."""


@dataclass(frozen=True)
class Study:
    """A study ready to run. arms have their budgets matched; every (arm, seed) is one run.

    match: what the arms have alike, in a word: a kind of budget, `steps`, or `as trained`. budget: what each may spend,
    where there is one. baselines: arms that the others are compared with; empty for all pairs. hypotheses: {metric,
    better, than}. fit: the metric whose error is fitted over compute. untrained: whether an untrained model is scored;
    `each` for every arm's own.
    """

    name: str
    title: str
    question: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    match: str
    protocol: Protocol
    show: int
    untrained: bool | str
    catalog: Catalog
    notes: tuple[str, ...] = field(default=())
    budget: Budget | None = None
    baselines: tuple[str, ...] = ()
    hypotheses: tuple[Mapping[str, str], ...] = ()
    fit: str | None = None

    @property
    def finished(self) -> bool:
        """Whether it compares finished runs."""
        return any(arm.finished for arm in self.arms)

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def pairs(self) -> list[tuple[int, Arm]]:
        """(seed, arm) of every run, in the order of the work: all arms at the first seed, then at the next."""
        return [(seed, arm) for seed in self.seeds for arm in self.arms if self._has(arm, seed)]

    def _has(self, arm: Arm, seed: int) -> bool:
        """Whether there is a run: videos of another generator are one, whatever the seed."""
        if arm.videos:
            return seed == self.seeds[0]
        return not arm.finished or seed in arm.finished

    def default_folder(self) -> Path:
        """`runs/NAME-HASH8`, where the same study always goes."""
        content = [[arm.name, arm.recipe.data, [str(run) for run in arm.finished.values()]] for arm in self.arms]
        protocol = {key: value for key, value in asdict(self.protocol).items() if key != "shares" or value}
        return RUNS / f"{self.name}-{digest([content, self.seeds, protocol])[:8]}"

    def recipe(self, arm: Arm, seed: int) -> Recipe:
        """The arm's recipe at a seed. A phase with a seed of its own keeps it: so arms share an autoencoder."""
        if arm.finished:
            return load_recipe(str(arm.finished[seed] / "recipe.yaml"))
        if arm.videos:
            return arm.recipe
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
    runs = [(Path(word) / "recipe.yaml").is_file() for word in named]
    finished = any(runs) and all(run or is_videos(Path(word)) for word, run in zip(named, runs, strict=True))
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
    file, path = load_recipe(name, own, kind="study"), find_study(name)
    said = checked(file)
    arms = arms_of(file, said)
    base = _base(file, path, "recipe", said.recipe) if said.recipe is not None else None
    study = build_study(
        name=path.stem, title=said.title or path.stem, question=said.question, base=base, arms=arms, seeds=said.seeds,
        match=said.match, protocol=_protocol(said), show=said.show, untrained=said.untrained, budget=said.budget,
        overrides=[word for word in overrides if word not in own], plugins=plugins, file=file,
    )  # fmt: skip
    _check_names_of(file, said, [arm.name for arm in study.arms])
    return replace(
        study,
        baselines=tuple(said.baselines),
        hypotheses=tuple(hypothesis.model_dump() for hypothesis in said.hypotheses),
        fit=said.fit.metric if said.fit else None,
    )


def _protocol(said: StudyFile) -> Protocol:
    told = said.evaluate.model_dump()
    return Protocol(**{**told, "shares": tuple(sorted(told["shares"]))})


def _base(file: Recipe, study: Path, at: tuple[str | int, ...] | str, named: Any) -> str:
    """A recipe that a study names: a file beside it, or a path or shipped name."""
    if not isinstance(named, str):
        raise file.problem(at, "must be the name or path of a recipe", named)
    beside = study.parent / named
    base = str(beside) if beside.suffix in (".yaml", ".yml") and beside.is_file() else named
    try:
        find_recipe(base)
    except InputError as missing:
        raise file.problem(at, missing.problem, named, missing.allowed) from None
    return base


def _check_names_of(file: Recipe, said: StudyFile, arms: Sequence[str]) -> None:
    """Raises InputError where the study speaks of an arm that it does not have."""
    for i, name in enumerate(said.baselines):
        if name not in arms:
            raise file.problem(("baselines", i), "is no arm of this study", name, arms)
    for i, one in enumerate(said.hypotheses):
        if one.better not in (*arms, EACH):
            raise file.problem(("hypotheses", i, "better"), "is no arm of this study", one.better, (*arms, EACH))
        if one.than not in (*arms, *FLOORS):
            raise file.problem(("hypotheses", i, "than"), "is neither an arm nor a floor", one.than, (*arms, *FLOORS))


def run_study_of(runs: Sequence[str], plugins: Sequence[Path] = ()) -> Study:
    """A study of finished runs, and of folders of videos: nothing is trained, all are scored by one protocol.

    Runs whose recipes differ in nothing but the seed are seeds of one arm. Videos are held against the data, and by the
    metrics, of the first run. Raises InputError on a run that is not finished, and on two of one recipe and seed.
    """
    folders = [Path(run) for run in runs if not (Path(run) / "recipe.yaml").is_file()]
    recipes = {Path(run): load_recipe(str(Path(run) / "recipe.yaml")) for run in runs if Path(run) not in folders}
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
    arms += [Arm(folder.resolve().name, arms[0].recipe, videos=folder.resolve()) for folder in folders]
    _check_names([arm.name for arm in arms])
    return Study(
        name=f"runs-{digest([str(Path(run).resolve()) for run in runs])[:8]}",
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
        sketch = assemble(arm.recipe, study.catalog, device="meta")
        dataset = sketch.dataset
        if arm.videos:
            check_videos(arm.videos, study.protocol.clips)
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
    base: str | None,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    match: str | MatchSaid,
    protocol: Protocol,
    show: int,
    untrained: bool | str,
    budget: BudgetSaid | None = None,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path] = (),
    file: Recipe | None = None,
) -> Study:
    """Resolves every arm, assembles it on the meta device, sizes its network and matches the budgets.

    base: the recipe of arms that name none. arms: by name, what each changes by dotted key; a value may be a node that
    knows where it was written. file: the study's own, for errors.
    """
    resolved = resolved_arms(base, arms, overrides, plugins, file)
    catalog = Catalog.load(
        list(dict.fromkeys([*plugins, *(p for one in resolved.values() for p in one.recipe.plugins)]))
    )
    known: dict[str, Mapping[str, Any]] = {}
    built = [
        one if one.videos else replace(costed(arm, one.recipe, catalog, known), aim=one.aim)
        for arm, one in resolved.items()
    ]
    if all(arm.videos for arm in built):
        raise InputError("a study trains at least one arm; compare videos with a finished run: `compare RUN DIR`")
    notes: list[str] = []
    if isinstance(match, MatchSaid):
        kind = "parameters" if match.parameters is not None else "flops_per_step"
        amount = getattr(match, kind)
        asked = Match(kind, None if amount == "first" else float(amount), tuple(match.by), match.within)
        built, notes = sized(built, asked, catalog)
    aim = Budget(budget.kind, budget.amount, budget.over) if budget else None if match == "steps" else Budget("flops")
    built, more = budgeted(built, aim)
    notes = [*notes, *more]
    if protocol.shares:
        built = [arm if arm.videos else with_shares(arm, protocol.shares) for arm in built]
    return Study(
        name, title, question, tuple(built), tuple(seeds), aim.kind if aim else "steps", protocol, show, untrained,
        catalog, tuple(notes), aim,
    )  # fmt: skip


def resolved_arms(
    base: str | None,
    arms: Mapping[str, Mapping[str, Any]],
    overrides: Sequence[str] = (),
    plugins: Sequence[Path] = (),
    file: Recipe | None = None,
) -> dict[str, Arm]:
    """The arms with their recipes, nothing assembled yet."""
    _check_names(list(arms))
    said = Said(base, overrides, plugins, file)
    return {arm: said.arm(arm, changes) for arm, changes in arms.items()}


@dataclass(frozen=True)
class Said:
    """What arms are resolved from."""

    base: str | None
    overrides: Sequence[str]
    plugins: Sequence[Path]
    file: Recipe | None

    def arm(self, name: str, changes: Mapping[str, Any]) -> Arm:
        """The arm, whose recipe is the base with its changes."""
        plain = {key: node.plain() if isinstance(node, Node) else node for key, node in changes.items()}
        base = self._base(plain.get("recipe"))
        recipe = load_recipe(base, self.overrides)
        for key, value in changes.items():
            if key.partition(".")[0] not in ("recipe", "videos", "budget"):
                recipe = recipe.replace(tuple(key.split(".")), value)
        recipe = recipe.replace(("name",), f"{recipe.name}-{UNSAFE.sub('-', name).strip('-.')}")
        if self.plugins:
            named = [str(path.resolve()) for path in self.plugins]
            recipe = recipe.replace(("plugins",), list(dict.fromkeys([*recipe.data.get("plugins", ()), *named])))
        videos = plain.get("videos")
        place = self.file.sources[0].parent if self.file else Path()
        return Arm(
            name, recipe, videos=(place / str(videos)).resolve() if videos else None, aim=_own_budget(name, plain)
        )

    def _base(self, named: Any) -> str:
        if named is not None and self.file is not None:
            return _base(self.file, self.file.sources[0], "arms", named)
        if self.base is None:
            if self.file is not None:
                raise self.file.problem("recipe", "is missing: an arm names no recipe of its own")
            raise InputError("a study needs a recipe")
        return str(named or self.base)


def _own_budget(name: str, changes: Mapping[str, Any]) -> Budget | None:
    """What an arm alone may spend."""
    said = dict(changes["budget"]) if isinstance(changes.get("budget"), Mapping) else {}
    said |= {key.partition(".")[2]: value for key, value in changes.items() if key.startswith("budget.")}
    if not said:
        return None
    try:
        told = BudgetSaid.model_validate(said)
    except ValueError:
        raise InputError(
            field=f"arms.{name}.budget", problem="must be one positive amount by its kind", got=said
        ) from None
    return Budget(told.kind, told.amount, told.over)


def with_shares(arm: Arm, shares: Sequence[float]) -> Arm:
    """The arm with checkpoints kept at shares of its budget. They change nothing of what is learned."""
    steps = arm.phase["steps"]
    each = [] if steps is None else marks(steps, shares)
    if steps is None or not each:
        return arm
    every = gcd(*each)
    recipe = arm.recipe.replace(place_of_last(arm, "checkpoint_every"), every)
    return replace(arm, recipe=recipe.replace(place_of_last(arm, "keep"), min(1000, steps // every + 2)))


def marks(steps: int, shares: Sequence[float]) -> list[int]:
    """Steps at shares of a phase, on a grid coarse enough that few checkpoints are kept."""
    grid = max(1, round(steps / GRID))
    return sorted({max(1, round(share * steps / grid)) * grid for share in shares} - {steps})
