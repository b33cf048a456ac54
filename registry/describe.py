"""What a recipe makes, said without making it: parameters, FLOPs, tokens, memory; 175 billion parameters included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.errors import WorkError
from mutoscope.core.training.plan import Phase
from mutoscope.registry.assembly import Assembled, assemble, phase_cost
from mutoscope.registry.building import HOST
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.counting import StepCost, forward_flops, sampling_flops, token_canvas
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.stages import Stage
from mutoscope.registry.training import taught

FLOAT = 4
"""Bytes of a weight; weights are float32 whatever the precision of products."""
MOMENTS = 2
"""Running averages that AdamW keeps of every weight that learns."""


def describe(recipe: Recipe, catalog: Catalog, seed: int | None = None) -> dict[str, Any]:
    """The figures of a recipe, JSON-able.

    `parts` by address: `type`; `parameters`, learned ones, frozen or not, those of nested parts included; `trained`,
    those its phases update; `flops`, of one forward of one clip without guidance, null where a part cannot be run
    without data. `stages` of a cascade; `tokens` of a training clip, of all stages together;
    `training_flops_per_step`, forward and backward, of the last phase that teaches a denoiser, else of the last;
    `sampling_flops` of one clip with guidance and decoding; `phases`; `memory`, an estimate in bytes of training the
    most demanding phase; `cache`, bytes of keys and values at the end of sampling one clip; `published`, as the recipe
    says, and `counted` over the same parts. Raises InputError on a recipe that does not fit.
    """
    assembled = assemble(recipe, catalog, device="meta", seed=seed)
    stages = {stage.name: stage for stage in assembled.stages}
    costs = {
        phase.name: phase_cost(stages[phase.stage], phase.learn, i, phase.descent)
        for i, phase in enumerate(assembled.plan.phases)
    }
    parts = _parts(assembled)
    denoising = [phase for phase in assembled.plan.phases if phase.learn == "denoiser"]
    main = next(iter([*reversed(denoising), *reversed(assembled.plan.phases)]), None)
    sampled = [_sampling(stage, parts) for stage in assembled.stages]
    cascade = [_stage(stage, spent) for stage, spent in zip(assembled.stages, sampled, strict=True) if stage.name]
    published = recipe.data.get("published")
    return {
        "name": recipe.name,
        "parts": parts,
        "stages": cascade,
        "tokens": sum(stage.tokens for stage in assembled.stages),
        "training_flops_per_step": _flops(costs[main.name]) if main else None,
        "sampling_flops": sum(spent for spent in sampled if spent is not None) if None not in sampled else None,
        "phases": [_phase(phase, costs[phase.name]) for phase in assembled.plan.phases],
        "memory": _memory(assembled, costs),
        "cache": max((_cache(stage) for stage in assembled.stages), default=0),
        "published": published,
        "counted": _counted(published, parts) if isinstance(published, Mapping) else None,
    }


def _parts(assembled: Assembled) -> dict[str, dict[str, Any]]:
    """An entry for every part of the model and of its objectives, nested ones too. Raises WorkError on a part that
    multiplies matrices and for which no FLOPs were counted."""
    learned = _learned(assembled)
    parts: dict[str, dict[str, Any]] = {}
    for address, made in assembled.made.items():
        if made.role in HOST:
            continue
        weights = _weights(made.part)
        flops = forward_flops(made.part, made.role, made.facts)
        if flops == 0 and made.role in ("autoencoder", "denoiser", "discriminator", "tower") and _multiplies(made.part):
            raise WorkError(f"{address}: {made.type.name} computes, but no FLOPs of it were counted")
        parts[address] = {
            "type": made.type.name,
            "parameters": sum(p.numel() for p in weights),
            "trained": sum(p.numel() for p in weights if id(p) in learned),
            "flops": flops,
        }
    return parts


def _learned(assembled: Assembled) -> set[int]:
    """Identities of the parameters that some phase updates."""
    learned: set[int] = set()
    stages = {stage.name: stage.whole for stage in assembled.stages}
    for phase in assembled.plan.phases:
        players = [stages[phase.stage].part(role) for role in taught(phase.learn) if role != "objective"]
        learned |= {id(p) for module in (*players, phase.objective) for p in module.parameters() if p.requires_grad}
    return learned


def _weights(part: Any) -> list[nn.Parameter]:
    return list(part.parameters()) if isinstance(part, nn.Module) else []


def _multiplies(part: nn.Module) -> bool:
    """Whether a part has weights that are more than a table."""
    tables = {id(m.weight) for m in part.modules() if isinstance(m, nn.Embedding)}
    return any(p.ndim >= 2 and id(p) not in tables for p in part.parameters())


def _sampling(stage: Stage, parts: Mapping[str, Mapping[str, Any]]) -> int | None:
    if stage.whole.lacks():
        return None
    denoiser = f"{stage.name}.denoiser" if stage.name else "denoiser"
    return sampling_flops(stage.whole, stage.facts, parts[denoiser]["flops"])


def _cache(stage: Stage) -> int:
    """Bytes that a sampler keeps of one clip in the denoiser's cache, for both halves of a guided call; 0 without."""
    if stage.whole.lacks() or not isinstance(stage.whole.denoiser, TokenDenoiser):
        return 0
    canvas = token_canvas(stage.whole, 1)
    return stage.whole.denoiser.cache_bytes(canvas) * stage.whole.sampler.caches()


def _stage(stage: Stage, spent: int | None) -> dict[str, Any]:
    clip = stage.whole.clip
    return {
        "name": stage.name,
        "frames": clip.frames,
        "size": list(clip.size),
        "tokens": stage.tokens,
        "sampling_flops": spent,
    }


def _phase(phase: Phase, cost: StepCost | None) -> dict[str, Any]:
    steps, flops = phase.descent.steps, _flops(cost)
    return {
        "name": phase.name,
        "steps": steps,
        "flops_per_step": flops,
        "flops": flops * steps if flops is not None and steps is not None else None,
        "exact": cost is not None and cost.exact,
    }


def _flops(cost: StepCost | None) -> int | None:
    return None if cost is None else cost.flops


def _memory(assembled: Assembled, costs: Mapping[str, StepCost | None]) -> dict[str, int | None]:
    """Bytes of training, of each kind in the phase that needs most of it: weights and their gradients, AdamW's
    moments and the averaged weights in float32; activations of one micro-batch as the backward pass keeps them."""
    stages = {stage.name: stage.whole for stage in assembled.stages}
    everything = sum(p.numel() for p in _unique(made.part for made in assembled.made.values()))
    most = {"gradients": 0, "optimizer": 0, "average": 0}
    activations: list[int] = []
    for phase in assembled.plan.phases:
        learners = [stages[phase.stage].part(role) for role in taught(phase.learn) if role != "objective"]
        rivals = _unique(phase.objective.opponents().values())
        own = sum(p.numel() for p in _unique([*learners, phase.objective]) if p.requires_grad)
        averaged = own - sum(p.numel() for p in rivals if p.requires_grad)
        most["gradients"] = max(most["gradients"], FLOAT * own)
        most["optimizer"] = max(most["optimizer"], MOMENTS * FLOAT * own)
        most["average"] = max(most["average"], FLOAT * averaged if phase.descent.ema else 0)
        cost = costs[phase.name]
        activations += [cost.activations] if cost is not None and cost.activations is not None else []
    parts: dict[str, int | None] = {
        "parameters": FLOAT * everything,
        **most,
        "activations": max(activations, default=None),
    }
    return {**parts, "total": sum(part for part in parts.values() if part is not None)}


def _unique(parts: Iterable[Any]) -> list[nn.Parameter]:
    """The parameters of some parts, each once."""
    return list({id(p): p for part in parts for p in _weights(part)}.values())


def _counted(published: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same sums that a source states, over the parts that it counts: by role, by address, or all of a stage.

    A part within another one of them is not counted twice.
    """
    named = [str(name) for name in published.get("parts") or []] or [a for a in parts if "." not in a]
    chosen = [a for a in parts if any(a == name or (a.startswith(f"{name}.") and name not in parts) for name in named)]
    outer = [a for a in chosen if not any(a != other and a.startswith(f"{other}.") for other in chosen)]
    flops = [parts[a]["flops"] for a in outer]
    return {
        "parts": outer,
        "parameters": sum(parts[a]["parameters"] for a in outer),
        "flops": None if None in flops else sum(flops),
    }
