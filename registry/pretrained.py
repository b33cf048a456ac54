"""Pretrained folders: a model as `model.json` and a folder per part, with `config.json` and `model.safetensors`.

A folder stands alone: it needs neither the recipe nor the data it was trained on. Nothing in it is code, and what it
names is never imported: where a part came from a plugin file, that file is named, and the user gives it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mutoscope
from mutoscope.core.component import Component
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.storage.atomic import flush_file, flush_folder, need_space, whole_folder, write_json
from mutoscope.core.storage.weights import load_tensors, read_header, save_tensors
from mutoscope.core.training.distribution import join
from mutoscope.registry.building import Builder, Findings
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.checking import check_fields, check_settings, part_named
from mutoscope.registry.contract import RESERVED, settings_of
from mutoscope.registry.mismatches import Ledger
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.runs import Answering, Loaded, load, read_json
from mutoscope.registry.stages import Stage, StageBuilder, objective_home, stages_said
from mutoscope.registry.training import TrainingSaid, read_training
from mutoscope.registry.wording import plain

FORMAT = 1
MODEL, CONFIG, WEIGHTS = "model.json", "config.json", "model.safetensors"
ADDRESS = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""What the folder of a part may be called: its address in the model."""
META = torch.device("meta")


@dataclass(frozen=True)
class Pretrained(Answering):
    """A pretrained folder as a model that generates."""

    folder: Path
    loaded: Model | Cascade

    @property
    def model(self) -> Model | Cascade:
        return self.loaded


def is_pretrained(folder: Path) -> bool:
    """Whether a folder says that it is a pretrained one."""
    return (folder / MODEL).is_file()


def open_model(
    folder: str | Path, device: str | None = None, plugins: Sequence[str | Path] = ()
) -> Loaded | Pretrained:
    """A run or a pretrained folder, whichever it is. Raises InputError on one that is neither."""
    opened = from_pretrained if is_pretrained(Path(folder)) else load
    return opened(folder, device=device, plugins=plugins)


# Saving


def save_pretrained(model: Model | Cascade | Answering, folder: str | Path) -> Path:
    """Writes a model as a pretrained folder; there whole or not at all.

    model: as assembled from a recipe, a loaded run, or a pretrained one. The folder of a part can be the `weights` of
    the same part in a recipe. Raises InputError on a model without a recipe or a folder that is not empty, WorkError
    when the disk will not take it.
    """
    trained = {"step": model.step, "done": model.done} if isinstance(model, Loaded) else None
    made = model.model if isinstance(model, Answering) else model
    folder = Path(folder)
    if made.recipe is None:
        raise InputError("this model was not assembled from a recipe, so its parts' settings are not known")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already; choose another folder")
    bad = next((n for n, t in made.state_dict().items() if t.is_floating_point() and not t.isfinite().all()), None)
    if bad is not None:
        raise InputError(f"{bad} is not finite; nothing is saved of this model")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
    need_space(folder.absolute().parent, sum(t.numel() * t.element_size() for t in made.state_dict().values()))
    with whole_folder(folder) as temporary:
        stages = [_save_stage(temporary, name, stage, said) for name, stage, said in _said(made)]
        first = stages_of(made)[0][1]
        content = {
            "format": FORMAT,
            "mutoscope": mutoscope.__version__,
            "name": made.recipe.get("name", "model"),
            "clip": asdict(first.clip),
            "cascade": isinstance(made, Cascade),
            "stages": stages,
            "trained": trained,
            "recipe": made.recipe,
        }
        write_json(temporary / MODEL, content)
    return folder


def _said(model: Model | Cascade) -> Iterator[tuple[str, Model, Mapping[str, Any]]]:
    """(name, model, what the recipe says of its parts by role) of every stage."""
    assert model.recipe is not None
    recipe = Recipe.of(model.recipe)
    findings = Findings(recipe)
    stages = stages_said(recipe, findings)
    training = read_training(recipe.data, stages, findings, None)
    said = {stage["name"]: stage for stage in stages} or {"": recipe.data}
    for name, stage in stages_of(model):
        _, objective = objective_home((), said[name], training.of(name))
        yield name, stage, {**said[name], "objective": objective}


def _save_stage(folder: Path, name: str, stage: Model, said: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the parts of one stage; gives its entry in `model.json`."""
    parts: dict[str, Any] = {}
    for address, part in stage.parts():
        role, _, place = address.partition(".")
        value = said[role][int(place or 0)] if isinstance(said[role], list) else said[role]
        whole = f"{name}.{address}" if name else address
        if not ADDRESS.fullmatch(whole):
            raise InputError(field="stages", problem="a stage's name cannot be that of a folder", got=name)
        entry = {"folder": whole, "sha256": _save_part(folder / whole, part, value)}
        parts.setdefault(role, []).append(entry)
    return {"name": name, "frames": stage.clip.frames, "size": list(stage.clip.size), "parts": parts}


def _save_part(folder: Path, part: Component, value: Any) -> str:
    """Writes one part; gives the hash of its weights."""
    folder.mkdir()
    assert isinstance(part, nn.Module)
    settings = _settings(type(part), value)
    config = {
        "format": FORMAT,
        "role": part.role,
        "type": part.name,
        "origin": _origin(type(part)),
        "settings": settings,
    }
    write_json(folder / CONFIG, config)
    save_tensors(folder / WEIGHTS, part.state_dict())
    flush_file(folder / WEIGHTS)
    flush_folder(folder)
    return _sha256(folder / WEIGHTS)


def _settings(cls: type[Component], value: Any) -> dict[str, Any]:
    """All settings of a part, defaults too, as a recipe writes them; its weights are beside them."""
    named, _ = part_named(value)
    assert named is not None
    given, _ = check_settings(cls, named.settings)
    settings = {s.name: _without_weights(plain(given.get(s.name, s.default))) for s in settings_of(cls)}
    return settings | {key: named.settings[key] for key in RESERVED if key == "frozen" and key in named.settings}


def _without_weights(value: Any) -> Any:
    """A setting without the `weights` of parts nested in it: those are saved with their owner's."""
    if not isinstance(value, Mapping):
        return value
    return {key: _without_weights(one) for key, one in value.items() if key != "weights" or "type" not in value}


def _origin(cls: type[Component]) -> str:
    """Where a part's code is: `mutoscope`, a package's name, or a plugin file's path."""
    module = sys.modules[cls.__module__]
    if cls.__module__.startswith("mutoscope_plugin_"):
        return str(module.__file__)
    return cls.__module__.partition(".")[0]


# Loading


def from_pretrained(
    folder: str | Path,
    device: str | None = None,
    plugins: Sequence[str | Path] = (),
    catalog: Catalog | None = None,
) -> Pretrained:
    """Loads a pretrained folder. Raises InputError on a folder that is none, or is damaged; nothing is loaded in part.

    device: by default CUDA where there is one. plugins: plugin files that its parts come from. catalog: one that is
    loaded already, in their place.
    """
    saved = _Saved(Path(folder), catalog or Catalog.load([*map(Path, plugins)]))
    # Shapes first, where nothing costs memory.
    for address, part in _addressed(saved.model(saved.stages(META))):
        _check_shapes(saved.folder / address / WEIGHTS, part)
    model = saved.model(saved.stages(join(device).device))
    for address, part in _addressed(model):
        file = saved.folder / address / WEIGHTS
        if _sha256(file) != saved.hashes[address]:
            raise InputError(f"{file}: not as it was written (its hash differs); nothing is loaded")
        _load(file, part)
    model.recipe = saved.content.get("recipe") or saved.recipe.data
    return Pretrained(saved.folder, model.eval().requires_grad_(False))


def pretrained_stages(folder: Path, catalog: Catalog) -> list[Stage]:
    """The stages of a pretrained folder on the meta device, without their weights. Raises InputError."""
    return _Saved(folder, catalog).stages(META)


class _Saved:
    """A pretrained folder as read: what is in its JSON files, checked. hashes: of weights, by address."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        file = folder / MODEL
        if not is_pretrained(folder):
            raise InputError(f"{folder} is not a pretrained folder: it has no {MODEL}")
        self.folder, self.catalog, self.content = folder, catalog, read_json(file)
        with _damage(file):
            _check_format(file, self.content)
            self.clip = _clip(file, self.content["clip"])
            self.hashes, data = _read_stages(folder, self.content, catalog)
            self.recipe = Recipe.of(data, str(self.content.get("name") or "model"))

    def stages(self, device: torch.device) -> list[Stage]:
        """The stages on a device, wired as assembly wires them, to clips like those they were trained on."""
        findings = Findings(self.recipe)
        said = stages_said(self.recipe, findings)
        builder = Builder(self.recipe, self.catalog, findings, device, {})
        ledger = Ledger().publish([self.clip], ("data",))
        stages = StageBuilder(builder, TrainingSaid((), 0)).build(self.recipe.data, said, ledger)
        wrong = [str(error) for _, _, error in findings.problems] + [found.says for found in findings.mismatches]
        if wrong:
            raise InputError(f"{self.folder}: {wrong[0]}")
        return stages

    def model(self, stages: Sequence[Stage]) -> Model | Cascade:
        if self.content["cascade"]:
            return Cascade({stage.name: stage.whole for stage in stages})
        return stages[0].whole


def _read_stages(folder: Path, content: Any, catalog: Catalog) -> tuple[dict[str, str], dict[str, Any]]:
    """Hashes of weights by address, and the parts as a recipe's data."""
    hashes: dict[str, str] = {}
    stages = []
    for stage in content["stages"]:
        said: dict[str, Any] = {}
        for role, entries in stage["parts"].items():
            values = []
            for entry in entries:
                if not ADDRESS.fullmatch(str(entry["folder"])):
                    raise InputError(f"{folder / MODEL}: {entry['folder']!r} is no folder of a part")
                hashes[entry["folder"]] = str(entry["sha256"])
                values.append(_read_config(folder / entry["folder"] / CONFIG, role, catalog))
            said[role] = values if len(values) > 1 else values[0]
        view = {"frames": stage["frames"], "size": stage["size"]}
        stages.append({"name": str(stage["name"]), "view": view, **said})
    if content["cascade"]:
        return hashes, {"stages": stages}
    return hashes, {key: value for key, value in stages[0].items() if key not in ("name", "view")}


def _read_config(file: Path, role: str, catalog: Catalog) -> dict[str, Any]:
    """A part as a recipe names it."""
    config = read_json(file)
    with _damage(file):
        _check_format(file, config)
        if config["role"] != role:
            raise InputError(f"{file}: is of the role {config['role']}, not {role}")
        if catalog.find(role, config["type"]) is None:
            raise InputError(f"{file}: {_unknown(role, config['type'], str(config['origin']), catalog)}")
        return {"type": config["type"], **config["settings"]}


def _unknown(role: str, name: str, origin: str, catalog: Catalog) -> str:
    if origin.endswith(".py"):
        return f"the {role} '{name}' comes from the plugin file {origin}; name that file with plugins or --plugin"
    if origin != "mutoscope":
        return f"the {role} '{name}' comes from the package {origin}, which is not installed or does not load"
    return f"unknown {role} '{name}'; {catalog.suggest(role, name)}"


def _clip(file: Path, said: Any) -> ClipFact:
    values, wrong = check_fields(ClipFact, said)
    if wrong:
        raise InputError(file=file, field=f"clip.{wrong[0].path[0]}", problem=wrong[0].problem)
    return ClipFact(**values)


def _check_format(file: Path, content: Any) -> None:
    if content["format"] != FORMAT:
        raise InputError(f"{file}: format {content['format']!r}; this version reads format {FORMAT}")


def _addressed(model: Model | Cascade) -> Iterator[tuple[str, nn.Module]]:
    for name, stage in stages_of(model):
        for address, part in stage.parts():
            assert isinstance(part, nn.Module)
            yield f"{name}.{address}" if name else address, part


def _check_shapes(file: Path, part: nn.Module) -> None:
    """Names and shapes in a file are the part's, and nothing else is there."""
    stored = {name: tuple(info["shape"]) for name, info in read_header(file).items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            has, wants = (_shape(found.get(name)) for found in (stored, wanted))
            raise InputError(f"{file}: '{name}': the file has {has}, the part {wants}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing of that name" if shape is None else str(list(shape))


def _load(file: Path, part: nn.Module) -> None:
    stored: dict[str, Tensor] = load_tensors(file)
    for name, tensor in part.state_dict().items():
        if stored[name].dtype != tensor.dtype:
            raise InputError(f"{file}: '{name}' is {stored[name].dtype}; the part has {tensor.dtype}")
    part.load_state_dict(stored)


class _damage:
    """Says of a JSON file that lacks what it should have that it is damaged."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError, IndexError)):
            raise InputError(f"{self.file}: damaged: {type(error).__name__}: {error}") from None


def _sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
