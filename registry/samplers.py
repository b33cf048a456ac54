"""Another sampler for a trained model, where a task asks for what its own does not do. Its weights stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mutoscope.core.component import Component
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact
from mutoscope.core.model import Model
from mutoscope.core.sampler import Sampler
from mutoscope.registry.building import Builder, Findings, merged
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import settings_of
from mutoscope.registry.mismatches import Ledger
from mutoscope.registry.recipe import Recipe

EDIT = "edit"
"""The task of a sampler that begins from a source, beside the places of `core.showing`."""


def other_sampler(
    model: Model, catalog: Catalog, task: str, settings: Mapping[str, Any] | None = None, own: object = None
) -> Sampler | None:
    """A sampler of the catalogue that does a task with this model, as its own one does not; None where none does.

    task: `edit`, or a place that stays. own: what the recipe says of the model's own sampler, of which settings of the
    same name are taken over. settings: others. Those that only make what is missing come before those that also edit.
    """
    words = samplers_that(catalog, task)
    for name in sorted(words, key=lambda name: (catalog.classes("sampler")[name].uses_source, name)):  # type: ignore[attr-defined]
        cls = catalog.classes("sampler")[name]
        if not isinstance(model.denoiser, cls.accepts):  # type: ignore[attr-defined]
            continue
        said = {"type": name, **_shared(cls, type(model.sampler), own), **(settings or {})}
        made, findings = built(model, catalog, said)
        if made is not None and not findings.any:
            return made
    return None


def samplers_that(catalog: Catalog, task: str) -> list[str]:
    """The samplers that do a task by themselves, with the networks that they accept."""
    return [name for name, cls in catalog.classes("sampler").items() if _does(cls, task)]


def named_sampler(model: Model, catalog: Catalog, said: Mapping[str, Any] | str) -> Sampler:
    """The sampler that a word, or settings with a type, say, for this model. Raises InputError where it does not fit."""
    name = said if isinstance(said, str) else said.get("type", "")
    cls = catalog.find("sampler", str(name))
    accepts = getattr(cls, "accepts", None)
    if cls is not None and accepts is not None and not isinstance(model.denoiser, accepts):
        problem = f"{name} works with a {accepts.__name__}; denoiser is {model.denoiser.name}"
        raise InputError(field="sampler", problem=problem)
    made, findings = built(model, catalog, said)
    if findings.any or made is None:
        told = [str(error) for _, _, error in findings.problems] + [m.says for m in findings.mismatches]
        raise InputError("\n".join(told) or f"sampler {name} does not fit this model")
    return made


def built(model: Model, catalog: Catalog, said: Mapping[str, Any] | str) -> tuple[Sampler | None, Findings]:
    """A sampler wired to the parts of a model."""
    recipe = Recipe.of({"sampler": said})
    findings = Findings(recipe)
    ledger = Ledger().publish([model.clip, *facts_of(model)], ())
    device = torch.device("meta") if any(p.is_meta for p in model.parameters()) else model.device
    part = Builder(recipe, catalog, findings, device, {}).part("sampler", ("sampler",), "sampler", said, ledger)
    return (part if isinstance(part, Sampler) else None), findings


def facts_of(model: Model) -> Iterable[Any]:
    """What the parts of a model publish, in order; conditioners together."""
    for role in ("autoencoder", "patchifier", "tower"):
        if not model.lacks((role,)):
            yield from model.part(role).facts()  # type: ignore[operator]
    told = [fact for c in model.conditioners for fact in c.facts() if isinstance(fact, ConditioningFact)]
    yield merged(told)
    yield from model.objective.facts()


def _does(cls: type[Component], task: str) -> bool:
    """Whether samplers of a class do a task by themselves, whatever the network has learned."""
    if task == EDIT:  # with a strength: others that begin from a source do something else with it
        return cls.uses_source and any(s.name == "strength" for s in settings_of(cls))  # type: ignore[attr-defined]
    return cls.goes_on_from == "all" or (cls.goes_on_from == "earlier" and task == "first")  # type: ignore[attr-defined]


def _shared(cls: type[Component], before: type[Component], own: object) -> dict[str, Any]:
    """The settings of the model's own sampler that another one has too."""
    if not isinstance(own, Mapping):
        return {}
    both = {s.name for s in settings_of(cls)} & {s.name for s in settings_of(before)}
    return {name: value for name, value in own.items() if name in both}
