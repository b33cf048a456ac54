"""What a model can be asked for, found out from its parts and their facts; nothing here knows a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mutoscope.core.component import Facts
from mutoscope.core.denoiser import FrameDenoiser
from mutoscope.core.errors import InputError, MutoscopeError
from mutoscope.core.facts import LatentFact, TokenFact
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.randomness import Draw
from mutoscope.core.request import Request
from mutoscope.core.showing import declined, goes_on_from, latent_fact, place_of, told_places
from mutoscope.core.values import Batch, Conditioning
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import settings_of
from mutoscope.registry.counting import UNRUNNABLE, forward_flops, latent_values
from mutoscope.registry.fit import covering
from mutoscope.registry.pretrained import is_pretrained, pretrained_stages
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.samplers import EDIT, other_sampler, samplers_that
from mutoscope.registry.stages import Stage

ASKED = {"prompt": "text to video", "label": "class to video", "actions": "actions to video"}
"""Fields of a batch that a request fills, and what it is called to ask for video by them."""
PLACED = {
    "animate an image": "first",
    "extend a video": "first",
    "extend it backward": "last",
    "connect two videos": "ends",
    "loop": "ends",
    "long video by windows": "first",
    "fill in frames": "frames",
    "fill in regions": "regions",
}
"""Tasks that go on from video, and the place of it that stays."""
REACH = 4
"""How many times a training clip's frames are looked at for other durations."""


@dataclass(frozen=True)
class Task:
    """Something that one might ask for. why: what allows it, or what is in the way."""

    task: str
    possible: bool
    why: str


def tasks_of(folder: Path, plugins: Sequence[Path] = ()) -> list[Task]:
    """The tasks of a run or a pretrained folder, without loading its weights. Raises InputError."""
    if is_pretrained(folder):
        catalog = Catalog.load(plugins)
        return tasks(pretrained_stages(folder, catalog), catalog)
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"{folder} is not a run folder: it has no recipe.yaml")
    recipe = load_recipe(folder / "recipe.yaml")
    catalog = Catalog.load([*plugins, *recipe.plugins])
    return tasks(assemble(recipe, catalog, "meta").stages, catalog)


def tasks(stages: Sequence[Stage], catalog: Catalog) -> list[Task]:
    """What stages on the meta device can be asked for together; the last one gives the video.

    catalog: where other samplers and parts that would do are looked for.
    """
    for stage in stages:
        if lacking := stage.whole.lacks():
            return [Task("video", False, f"{stage.name or 'the model'} has no {lacking[0]}, so nothing is generated")]
    models = [stage.whole for stage in stages]
    last = stages[-1]
    return [
        *(_asked(field, models) for field in ASKED),
        _image(last),
        _durations(last),
        _sizes(last),
        *(_placed(task, place, models, catalog) for task, place in PLACED.items()),
        _edit(last.whole, catalog),
        _guidance(models),
    ]


# What conditioners are told


def readers(models: Sequence[Model]) -> dict[str, list[str]]:
    """Which conditioners read each field that a request may fill, by name: found by watching them read."""
    found: dict[str, list[str]] = {field: [] for field in ASKED}
    for model in models:
        for conditioner in model.conditioners:
            batch = _watching(model)
            try:
                with torch.no_grad():
                    conditioner.embed(batch, _draw(model))
            except (*UNRUNNABLE, MutoscopeError):  # it may want what only a real request has; what it read counts
                pass
            for field in batch.seen:
                found[field].append(conditioner.name)
    return found


class _Watching(Batch):
    """A batch that remembers which of the fields that a request fills were read."""

    seen: set[str]

    def __new__(cls, **fields: Any) -> _Watching:
        watching = super().__new__(cls)
        object.__setattr__(watching, "seen", set())  # before the fields are set, in a class that is frozen
        return watching

    def __getattribute__(self, name: str):
        if name in ASKED:
            object.__getattribute__(self, "seen").add(name)
        return object.__getattribute__(self, name)


def _watching(model: Model) -> _Watching:
    """One clip of which everything that the data has is said."""
    clip, device = model.clip, model.device
    batch = _Watching(
        prompt=("",) if clip.captions else None,
        label=torch.zeros(1, dtype=torch.long, device=device) if clip.classes else None,
        actions=torch.zeros(1, clip.frames, dtype=torch.long, device=device) if clip.actions else None,
        clips=(0,),
    )
    batch.seen.clear()
    return batch


def _draw(model: Model) -> Draw:
    return Draw(0, "tasks", 0, (0,), model.device)


def _asked(field: str, models: Sequence[Model]) -> Task:
    names = readers(models)[field]
    if names:
        clip = models[-1].clip
        range_of = {"label": f"; 0 to {clip.classes - 1}", "actions": f"; 0 to {clip.actions - 1}, one per frame"}
        return Task(ASKED[field], True, f"{_listed(names)} reads {field}{range_of.get(field, '')}")
    return Task(ASKED[field], False, f"no conditioner reads {field}; there is {_listed(_conditioners(models))}")


# Tasks that begin from video


def _placed(task: str, place: str, models: Sequence[Model], catalog: Catalog) -> Task:
    """A task that goes on from video, of which a place stays: every stage is to do it."""
    why: list[str] = []
    for model in models:
        fact = latent_fact(model)
        if task == "animate an image" and not fact.causal and fact.stride[0] > 1 and not _sees(model):
            return Task(task, False, f"{model.autoencoder.name} codes {fact.stride[0]} frames together: show as many")
        reads = model.denoiser.reads if isinstance(model.denoiser, FrameDenoiser) else 1
        if task == "animate an image" and reads > 1:
            return Task(task, False, f"{model.denoiser.name} goes on from {reads} frames: show as many")
        if goes_on_from(model, place):
            why.append(_how(model, place))
        elif (other := other_sampler(model, catalog, place)) is not None:
            why.append(f"by the sampler {other.name}, in the place of {model.sampler.name}")
        else:
            return Task(task, False, f"{declined(model, place)}{_who(model, place, catalog)}")
    return Task(task, True, " and ".join(dict.fromkeys(why)))


def _how(model: Model, place: str) -> str:
    if place in told_places(model):
        return f"{model.denoiser.name} has learned to be told of known tokens there"
    if model.sampler.goes_on_from == "told":
        return f"{_listed([c.name for c in model.conditioners if c.sees])} looks at first frames"
    return f"{model.sampler.name} goes on from them"


def _sees(model: Model) -> bool:
    return any(c.sees for c in model.conditioners)


def _who(model: Model, place: str, catalog: Catalog) -> str:
    """What could, in words: the same network told of known tokens, other networks of its kind, or other samplers."""
    able = [name for name, cls in catalog.classes("sampler").items() if cls.goes_on_from == "all"]  # type: ignore[attr-defined]
    if model.sampler.goes_on_from == "earlier":
        return f"; models that {_listed(able)} sample could"
    kinds = type(model.denoiser).capabilities()
    told = [
        name
        for name, cls in catalog.classes("denoiser").items()
        if cls.capabilities() == kinds and _told_at(cls, place)
    ]
    if model.denoiser.name in told:
        return "; the conditioner known, in training, would teach it"
    return (
        f"; {_listed(told)} could, with the conditioner known"
        if told
        else f"; models that {_listed(able)} sample could"
    )


def _told_at(cls: Any, place: str) -> bool:
    """Whether networks of a class use clean tokens at a place."""
    return cls.uses_known and (not cls.known_at or place in cls.known_at)


def _edit(model: Model, catalog: Catalog) -> Task:
    task = "edit a video"
    if model.sampler.uses_source:
        return Task(task, True, f"{model.sampler.name} begins from it")
    other = other_sampler(model, catalog, EDIT)
    if other is not None:
        return Task(task, True, f"by the sampler {other.name}, in the place of {model.sampler.name}")
    kinds = samplers_that(catalog, EDIT)
    return Task(
        task, False, f"{model.sampler.name} begins from nothing; {_listed(kinds)} begins from a video, with diffusion"
    )


def prepare(model: Model | Cascade, request: Request, catalog: Catalog, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Gives every stage a sampler that does what a request asks for, where its own does not; says so in words.

    settings: of that sampler, such as a strength. Raises InputError where none of the catalogue does either.
    """
    place = None if request.stays is None else place_of(request.stays)
    place = "ends" if request.loop else "first" if request.window and place is None else place
    edits = request.source is not None and request.stays is None and not request.loop
    notes = []
    for name, stage in stages_of(model):
        last = stage is stages_of(model)[-1][1]
        if (edits and not last) or (not edits and place is None):
            continue
        does = stage.sampler.uses_source if edits else goes_on_from(stage, place or "")
        if does and not settings:
            continue
        own = _said_of_sampler(model, name)
        other = other_sampler(stage, catalog, EDIT if edits else str(place), settings, own)
        if other is None:
            why = (
                _edit(stage, catalog).why
                if edits
                else f"{declined(stage, str(place))}{_who(stage, str(place), catalog)}"
            )
            raise InputError(why)
        if other.name != stage.sampler.name:
            notes.append(f"sampled with {other.name}, in the place of {stage.sampler.name}")
        stage.sampler = other
    return tuple(dict.fromkeys(notes))


def _said_of_sampler(model: Model | Cascade, stage: str) -> object:
    """What the recipe says of a stage's sampler."""
    recipe: Any = model.recipe or {}
    said = next((s for s in recipe.get("stages") or () if s.get("name") == stage), recipe)
    return said.get("sampler")


def _guidance(models: Sequence[Model]) -> Task:
    guided = [m for m in models if any(s.name == "guidance" for s in settings_of(type(m.sampler)))]
    if not guided:
        return Task("guidance", False, f"{_listed([m.sampler.name for m in models])} has no setting `guidance`")
    able = [m for m in guided if _told(m).null is not None]
    if not able:
        why = "no conditioner has learned to be told nothing (dropout above 0)"
        return Task("guidance", False, why if any(m.conditioners for m in guided) else "there is no conditioner")
    return Task("guidance", True, f"{_listed([m.sampler.name for m in able])} weighs what is told against nothing told")


def _told(model: Model) -> Conditioning:
    """What the conditioners say of one clip; nothing where they cannot be run without data."""
    try:
        with torch.no_grad():
            return model.embed(_watching(model), _draw(model))
    except (*UNRUNNABLE, MutoscopeError):
        null = Conditioning() if any(c.dropout > 0 for c in model.conditioners) else None
        return Conditioning(null=null)


# Shapes


def _image(stage: Stage) -> Task:
    shape = (1, *stage.whole.clip.size)
    return _shaped(stage, "image", shape, "one frame")


def _durations(stage: Stage) -> Task:
    """Longer clips, or shorter ones at least."""
    clip, name = stage.whole.clip, "other durations"
    exact = [n for n in range(2, REACH * clip.frames + 1) if n != clip.frames and _exact(stage, (n, *clip.size))]
    longer = next((n for n in exact if n > clip.frames), 2 * clip.frames)
    few = ", ".join(map(str, exact[:4])) or str(longer)
    task = _shaped(stage, name, (longer, *clip.size), f"{few} frames, say")
    shorter = [n for n in exact if n < clip.frames and not _stuck(stage, (n, *clip.size))]
    if task.possible or not shorter:
        return task
    return Task(name, True, f"{', '.join(map(str, shorter[:4]))} frames, say; none longer: {task.why}")


def _sizes(stage: Stage) -> Task:
    rows, columns = stage.whole.clip.size
    shape = (stage.whole.clip.frames, rows, 2 * columns)
    return _shaped(stage, "other sizes", shape, f"{rows} x {2 * columns}, say")


def _shaped(stage: Stage, task: str, shape: tuple[int, int, int], example: str) -> Task:
    """Whether video of a shape can be asked for: whether all parts run at it."""
    whole = covering(stage.whole.autoencoder, stage.whole.patchifier, shape)
    said = f"{shape[0]} frames of {shape[1]} x {shape[2]}"
    if whole is None:
        return Task(
            task, False, f"{stage.whole.autoencoder.name} and {stage.whole.patchifier.name} have no grid for {said}"
        )
    stuck = _stuck(stage, shape)
    if stuck:
        return Task(task, False, stuck)
    if whole == shape:
        return Task(task, True, example)
    return Task(task, True, f"{example}; {whole[0]} frames of {whole[1]} x {whole[2]} are sampled and trimmed")


def _exact(stage: Stage, shape: tuple[int, int, int]) -> bool:
    return covering(stage.whole.autoencoder, stage.whole.patchifier, shape) == shape


def _stuck(stage: Stage, shape: tuple[int, int, int]) -> str | None:
    """Why a part does not run on video of a shape, where it does run on training clips."""
    clip = stage.whole.clip
    for runs in (_denoises, _decodes):
        why = runs(stage, _at(stage, shape))
        if why and not runs(stage, _at(stage, (clip.frames, *clip.size))):
            return f"{why} ({shape[0]} frames of {shape[1]} x {shape[2]})"
    return None


def _at(stage: Stage, shape: tuple[int, int, int]) -> Facts:
    """The stage's facts as they would be for clips of a shape."""
    model, facts = stage.whole, stage.facts
    grid = model.patchifier.token_grid(model.autoencoder.latent_grid(shape[0], shape[1:]))
    more: list[object] = [replace(model.clip, frames=shape[0], size=shape[1:])]
    latent, token = facts.get(LatentFact), facts.get(TokenFact)
    if latent is not None:
        more.append(replace(latent, grid=model.patchifier.latent_grid(grid)))
    if token is not None:
        more.append(replace(token, grid=grid))
    return facts.with_(more)


def _denoises(stage: Stage, facts: Facts) -> str:
    """Why the denoiser does not run on clips of these facts; nothing where it does."""
    denoiser = stage.whole.denoiser
    try:
        flops = forward_flops(denoiser, "denoiser", facts)
    except MutoscopeError as error:
        return getattr(error, "problem", "") or str(error)
    return "" if flops is not None else f"{denoiser.name} does not run on it"


def _decodes(stage: Stage, facts: Facts) -> str:
    """Why the autoencoder does not decode latents of these facts; nothing where it does."""
    autoencoder, latents = stage.whole.autoencoder, latent_values(facts, 1)
    try:
        with torch.no_grad():
            if latents is not None:
                autoencoder.decode(latents)
    except MutoscopeError as error:
        return getattr(error, "problem", "") or str(error)
    except UNRUNNABLE:
        return f"{autoencoder.name} does not decode it"
    return ""


def _conditioners(models: Sequence[Model]) -> list[str]:
    return [c.name for model in models for c in model.conditioners]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(names)) or "none"
