"""Run folders: started from a recipe, continued, and loaded as a model that generates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import InputError, RunInUse
from mutoscope.core.generation import Generated, Request, generate, settled
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.storage.atomic import clean, make_folder, write_json, write_text
from mutoscope.core.storage.checkpoint import newest, read_checkpoint
from mutoscope.core.storage.lock import RunLock, holder
from mutoscope.core.training.distribution import join
from mutoscope.core.training.plan import Descent, Phase
from mutoscope.core.training.progress import Progress
from mutoscope.core.training.provenance import environment
from mutoscope.core.training.run import Position, train
from mutoscope.core.training.state import load_module
from mutoscope.registry.addresses import digest, files_named, phase_address
from mutoscope.registry.assembly import Assembled, assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe, load_recipe

RUNS = Path("runs")
LOOKED_AT = ("autoencoder", "patchifier", "conditioner", "objective", "denoiser", "tower", "writer")
"""The roles that a denoiser's training looks at: all but what only samples or scores."""
PHASES = ".phases"


def recipe_hash(recipe: Recipe) -> str:
    """Eight digits of the resolved recipe's hash; layout and comments do not count."""
    return digest(recipe.data)[:8]


def default_folder(recipe: Recipe) -> Path:
    """`runs/NAME-HASH8`, where the same recipe always goes."""
    return RUNS / f"{recipe.name}-{recipe_hash(recipe)}"


def train_recipe(
    recipe: Recipe,
    catalog: Catalog,
    folder: Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    store: Path | None = None,
) -> tuple[Path, Assembled, Position]:
    """Trains a recipe in its run folder, or continues there.

    store: where finished phases are kept by address; by default `.phases` beside the run folder. Raises InputError
    when the folder holds another recipe's run, RunInUse when another process works in it.
    """
    folder = folder or default_folder(recipe)
    store = store or folder.parent / PHASES
    processes = join(device)
    if processes.first and (who := holder(folder)):
        raise RunInUse(f"{folder} is in use by {who}; wait for it, or choose another folder with --out")
    assembled = assemble(recipe, catalog, device=str(processes.device))
    if progress is not None and any(phase.descent.precision == "auto" for phase in assembled.plan.phases):
        progress.note(f"precision auto: {settled('auto', processes.device)} on this machine")
    assembled = with_addresses(assembled, catalog, processes.device.type)
    if processes.first:
        make_folder(folder)
    processes.wait()
    if processes.first:
        with RunLock(folder):
            _claim(folder, recipe, assembled, processes.device, progress)
            _record(folder, assembled.dataset, progress)
            try:
                position = train(assembled.model, assembled.plan, folder, processes, store, progress)
            finally:
                _record(folder, assembled.dataset)
            return folder, assembled, position
    return folder, assembled, train(assembled.model, assembled.plan, folder, processes, store, progress)


def with_addresses(assembled: Assembled, catalog: Catalog, device: str) -> Assembled:
    """The same with every phase's precision settled on the device and its address filled in."""
    phases: list[Phase] = []
    for i, phase in enumerate(assembled.plan.phases):
        depends, classes = _dependencies(assembled, phase, i)
        built_on = [
            p for p in phases if p.stage == phase.stage and (phase.learn != "autoencoder" or p.learn == phase.learn)
        ]
        before = [p.address for p in built_on]
        phase = replace(
            phase,
            descent=_settled(phase.descent, device),
            turns={turn: _settled(descent, device) for turn, descent in phase.turns.items()},
        )
        descents = {"learner": phase.descent, **phase.turns}
        phases.append(replace(phase, address=phase_address(depends, classes, descents, before, device)))
    return replace(assembled, plan=replace(assembled.plan, phases=tuple(phases)))


def _settled(descent: Descent, device: str) -> Descent:
    return replace(descent, precision=settled(descent.precision, torch.device(device)))


def _dependencies(assembled: Assembled, phase: Phase, index: int) -> tuple[dict[str, Any], list[type]]:
    """What a phase looks at besides what earlier phases have taught: everything of its stage where a denoiser learns; else
    the data, the learner, its objective, and of the tower the latents that a classifier of noisy ones sees. Of the stages
    before its own a phase sees only the size of their video: it learns from real video, made as small."""
    data: Any = assembled.recipe.data
    latents = ("autoencoder", "patchifier") if phase.learn == "tower" else ()
    seen = LOOKED_AT if phase.learn == "denoiser" else (*latents, phase.learn)
    stages = dict(stages_of(assembled.model))
    place = list(stages).index(phase.stage)
    said = data["stages"] if phase.stage else [data]
    depends = {"data": data.get("data"), "version": assembled.dataset.fingerprint(), "stage": phase.stage}
    depends |= {role: said[place].get(role) for role in seen}
    if phase.stage:
        depends["views"] = [one.get("view") for one in said[: place + 1]]
        depends["phases of all stages"] = (data.get("training") or {}).get("phases")
    own = [n for n, one in enumerate(assembled.plan.phases) if one.stage == phase.stage].index(index)
    phases = (said[place].get("training") or {}).get("phases") or []
    depends["objective of the phase"] = phases[own].get("objective") if own < len(phases) else None
    depends["class of the objective"] = type(phase.objective).__name__
    parts = {key: value for key, value in depends.items() if key != "data"}  # whose version says what is in its files
    depends["files"] = files_named(parts, [source.parent for source in assembled.recipe.sources])
    model = stages[phase.stage]
    classes = [type(part) for address, part in model.parts() if address.partition(".")[0] in seen]
    return depends, [*classes, type(phase.objective), type(assembled.dataset)]


def _claim(
    folder: Path, recipe: Recipe, assembled: Assembled, device: torch.device, progress: Progress | None = None
) -> None:
    """Writes what the run is, or checks that the folder is this recipe's and the data what it was.

    Raises InputError where it is not. What an interrupted write has left is deleted; that bits may differ from those
    of an uninterrupted run, since versions or threads do, is told to `progress`.
    """
    for place in (folder, folder / "checkpoints", folder / "samples"):
        clean(place)
    written = folder / "recipe.yaml"
    if written.exists():
        before = load_recipe(str(written))
        if recipe_hash(before) != recipe_hash(recipe):
            raise InputError(
                f"{folder} holds a run of another recipe ({before.name}); choose another folder with --out"
            )
    else:
        write_text(written, recipe.dump())
    data, told = assembled.dataset.fingerprint(), environment(device)
    before_run = _written_before(folder / "run.json")
    if before_run.get("data", data) != data:
        raise InputError(
            f"{folder}: the data is not what this run began with (its files were changed, added or removed); put it "
            "back, or choose another folder with --out"
        )
    was = before_run.get("environment") or told
    changed = [
        name for name in ("python", "packages", "device", "device_name", "threads") if was.get(name) != told[name]
    ]
    addresses = {one.get("name"): one.get("address") for one in before_run.get("phases") or ()}
    if not changed and any(addresses.get(p.name, p.address) != p.address for p in assembled.plan.phases):
        changed = ["code of its parts or core"]
    if changed and progress is not None:
        progress.note(f"continues with other {', '.join(changed)} than before; the result is not bit for bit the same")
    write_json(
        folder / "run.json",
        {
            "format": 1,
            "name": recipe.name,
            "hash": recipe_hash(recipe),
            "seed": assembled.plan.seed,
            "phases": [
                {"name": p.name, "steps": p.descent.steps, "precision": p.descent.precision, "address": p.address}
                for p in assembled.plan.phases
            ],
            "plugins": recipe.data.get("plugins", []),
            "data": data,
            "environment": told,
        },
    )


def _written_before(path: Path) -> dict[str, Any]:
    """What `run.json` says; nothing where the run is new. Raises InputError on a damaged one."""
    said = read_json(path) if path.exists() else {}
    if not isinstance(said, dict) or not isinstance(said.get("environment") or {}, dict):
        raise InputError(f"{path}: not a JSON file that this version wrote")
    return said


def _record(folder: Path, dataset: Dataset, progress: Progress | None = None) -> None:
    """Keeps what the data reports in `data.json`; progress: is told its note."""
    report = dataset.report()
    if not report:
        return
    if progress is not None and report.get("note"):
        progress.note(f"{report['note']}; see {folder / 'data.json'}")
    write_json(folder / "data.json", report)


class Answering:
    """A model that can be asked for video in one line."""

    @property
    def model(self) -> Model | Cascade:
        raise NotImplementedError

    def generate(self, *prompts: str, request: Request | None = None, **asked: Any) -> torch.Tensor:
        """Video B C T H W in [-1, 1] for some prompts; keywords are those of `Request`.

        `model.generate("a red circle moves left", frames=17, size=(32, 32))`.
        """
        return self.answer(*prompts, request=request, **asked).video

    def answer(self, *prompts: str, request: Request | None = None, **asked: Any) -> Generated:
        """As `generate`, with the notes on what was done beyond the request."""
        base = request or Request()
        return generate(self.model, replace(base, **({"prompts": prompts} if prompts else {}), **asked))


@dataclass(frozen=True)
class Loaded(Answering):
    """A run as a model that generates; `step` is how far it was trained, `done` whether to the end.

    notes: what the user should know, such as that a newer checkpoint is damaged.
    """

    folder: Path
    assembled: Assembled
    step: int
    done: bool
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> Model | Cascade:
        return self.assembled.model


def load(
    run: str | Path,
    device: str | None = None,
    plugins: Sequence[str | Path] = (),
    catalog: Catalog | None = None,
    step: int | None = None,
) -> Loaded:
    """Loads a run folder. Raises InputError on a folder that is no run or has no checkpoint that verifies.

    plugins: plugin files that its recipe does not name. catalog: one that is loaded already, in their place. step: of
    the checkpoint, counted over all phases; by default the newest.
    """
    folder = Path(run)
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"{folder} is not a run folder: it has no recipe.yaml")
    recipe = load_recipe(str(folder / "recipe.yaml"))
    catalog = catalog or Catalog.load([*map(Path, plugins), *recipe.plugins])
    processes = join(device)
    assembled = assemble(recipe, catalog, device=str(processes.device))
    problems: list[str] = []
    found = newest(folder / "checkpoints", report=problems.append) if step is None else _at(folder, step)
    if found is None:
        said = f" ({problems[0]})" if problems else ""
        raise InputError(f"{folder} has no checkpoint yet{said}: run `mutoscope train` on its recipe first")
    parts, state = read_checkpoint(found)
    load_module(assembled.model, parts["model"], found)
    assembled.model.eval().requires_grad_(False)
    average = parts.get("average")
    if average:
        _install_average(assembled, state["phase"], average)
    return Loaded(folder, assembled, int(found.name.rpartition("-")[2]), bool(state["done"]), tuple(problems))


def _at(folder: Path, step: int) -> Path | None:
    """The checkpoint of a step. Raises InputError where there is none."""
    found = folder / "checkpoints" / f"step-{step:08d}"
    if not found.is_dir():
        raise InputError(f"{folder} has no checkpoint of step {step}")
    return found


def _install_average(assembled: Assembled, phase: int, average: dict[str, torch.Tensor]) -> None:
    """In a checkpoint in mid-phase the raw weights are in the model; the average is what samples."""
    stage = assembled.plan.phases[phase].stage
    model = assembled.model if isinstance(assembled.model, Model) else dict(assembled.model.items())[stage]
    with torch.no_grad():
        for name, weight in average.items():
            if not name.startswith("objective."):
                model.get_parameter(name).copy_(weight)


def read_json(path: Path) -> Any:
    """A JSON file's content. Raises InputError naming the file when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as bad:
        raise InputError(f"{path}: not a JSON file that this version wrote: {bad}") from None
