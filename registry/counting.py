"""Counting what a model costs without having it: FLOPs and bytes of meta tensors.

FLOPs are 2 x multiply-accumulates of matrix products and convolutions, as `torch.utils.flop_counter` sees them, and
only ever on the meta device: on a CPU the counter misses LSTMs and sees fused attention as something else.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.component import Component, Facts
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.denoiser import Denoiser, FrameDenoiser, LevelDenoiser, OneStepDenoiser, TokenDenoiser
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ClipFact, ConditioningFact, EarlierFact, FieldFact, LatentFact, TokenFact
from mutoscope.core.model import Model
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.tower import Tower
from mutoscope.core.training.turns import LEARNER
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Latents, Tokens

META = torch.device("meta")
CYCLE = 64
"""Steps over which an objective's turns are averaged; lazy regularisers come every so many steps."""
PROMPT = "a red circle moves left {:06d}"
"""What a conditioner is asked to embed when it is counted; a clip's number makes prompts differ, at equal length."""

UNRUNNABLE = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What parts raise that look at values, or ask for what only real data has."""

F = TypeVar("F")


@dataclass(frozen=True)
class StepCost:
    """Of one optimizer step. flops: forward and backward, all turns and micro-batches. activations: bytes kept for
    the backward pass of one micro-batch. exact: counted; else the learner's forward passes times three."""

    flops: int
    activations: int | None
    exact: bool


def flops_of(call: Callable[[], Any]) -> int:
    """FLOPs of a call on meta tensors."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def forward_flops(part: Component, role: str, facts: Facts) -> int | None:
    """FLOPs of one forward pass of one clip without guidance; None where a part can only be run on real data.

    An autoencoder's forward is encoding and decoding, a conditioner's is what one more clip in the batch costs, a
    frame denoiser's is all frames of the clip. facts: those the part was wired with.
    """
    runs = {
        "autoencoder": _autoencoder_pass,
        "conditioner": _conditioner_pass,
        "denoiser": _denoiser_pass,
        "discriminator": _discriminator_pass,
        "tower": _tower_pass,
    }
    if role not in runs:
        return 0 if not isinstance(part, nn.Module) or role in ("patchifier", "objective", "sampler") else None
    run = runs[role](part, facts)
    if run is None:
        return None
    # A conditioner that is not training looks at what it is asked.
    with _mode(part, training=role == "conditioner"), torch.no_grad():  # type: ignore[arg-type]
        try:
            if role == "conditioner":
                return flops_of(lambda: run(3)) - flops_of(lambda: run(2))
            return flops_of(lambda: run(1))
        except UNRUNNABLE:
            return None


def step_cost(
    model: Model, learn: str, objective: Objective, batch: int, accumulate: int, facts: Facts
) -> StepCost | None:
    """What one step of a phase costs. None where neither the loss nor the learner can be run on meta tensors."""
    learner, micro = model.part(learn), max(1, batch // accumulate)
    flops, activations = 0.0, 0
    turns: Counter[str] = Counter(turn for step in range(CYCLE) for turn in objective.turns(step))
    try:
        objective = _begun(objective, learner)
        with _mode(learner, training=True), _mode(objective, training=True):
            for turn, count in turns.items():
                with _only(turn, learner, objective):
                    example = _example(model, learn, micro, facts, turn)
                    spent, kept = _loss_cost(learner, objective, example, micro, turn)
                flops += spent * count / CYCLE
                activations = max(activations, kept)
        exact = True
    except UNRUNNABLE:
        forward = forward_flops(learner, learn, facts)  # type: ignore[arg-type]
        if forward is None:
            return None
        flops, activations, exact = 3.0 * micro * forward, None, False
    if learn == "denoiser":
        passes = (turns.total() + 2 * sum(n for turn, n in turns.items() if _owner(turn) == LEARNER)) / CYCLE
        flops += passes * sum(_embedding_flops(c, micro, facts) for c in model.conditioners if _learns(c))
    return StepCost(round(flops * accumulate), activations, exact)


def sampling_flops(model: Model, facts: Facts, forward: int | None) -> int | None:
    """FLOPs of sampling one clip of the training size: network calls, guidance among them, and decoding.

    forward: of one forward pass of the denoiser.
    """
    canvas, latents = token_canvas(model, 1), latent_values(facts, 1)
    if forward is None or latents is None:
        return None
    calls, denoiser = model.sampler.calls(canvas), model.denoiser
    if isinstance(denoiser, TokenDenoiser) and denoiser.new_cache(canvas) is not None:
        spent = forward * calls / canvas.grids[0].cells  # with a cache a call is one token's share of a forward pass
    elif isinstance(denoiser, FrameDenoiser):
        spent = forward * calls / canvas.grids[0].frames
    else:
        spent = forward * calls
    with _mode(model.autoencoder, training=False), torch.no_grad():
        try:
            decoding = flops_of(lambda: model.autoencoder.decode(latents))
        except UNRUNNABLE:
            return None
    return round(spent) + decoding


# Meta values of the training data's shapes


def meta_batch(facts: Facts, clips: int, video: bool = True) -> Batch:
    """Clips of the training data's shape with everything said of them."""
    clip, earlier = _fact(facts, ClipFact), facts.get(EarlierFact)
    return Batch(
        video=torch.empty(clips, clip.channels, clip.frames, *clip.size, device=META) if video else None,
        prompt=tuple(map(PROMPT.format, range(clips))) if clip.captions else None,
        label=torch.zeros(clips, dtype=torch.long, device=META) if clip.classes else None,
        actions=torch.zeros(clips, clip.frames, dtype=torch.long, device=META) if clip.actions else None,
        clips=tuple(range(clips)),
        earlier=torch.empty(clips, earlier.channels, earlier.frames, *earlier.size, device=META) if earlier else None,
    )


def latent_values(facts: Facts, clips: int) -> Latents | None:
    """Latents of the training data's shape."""
    latent = facts.get(LatentFact)
    if latent is None:
        return None
    if latent.codebook is not None:
        return Latents(torch.zeros(clips, *latent.grid, dtype=torch.long, device=META), ids=True)
    return Latents(torch.empty(clips, latent.channels, *latent.grid, device=META), ids=False)


def token_canvas(model: Model, clips: int) -> Tokens:
    """The canvas of training clips."""
    latent = model.autoencoder.latent_grid(model.clip.frames, model.clip.size)
    return model.patchifier.canvas([model.patchifier.token_grid(latent)] * clips, META)


def filled(canvas: Tokens, fact: TokenFact) -> Tokens:
    """The canvas with meta values."""
    if fact.codebook is not None:
        return canvas.with_values(torch.zeros(canvas.clip.shape, dtype=torch.long, device=META))
    return canvas.with_values(torch.empty(*canvas.clip.shape, fact.width, device=META))


def meta_conditioning(facts: Facts, clips: int, learns: bool = False) -> Conditioning:
    """Conditioning of the widths that the conditioners publish, with a null one beside it. learns: takes gradients."""
    given = facts.get(ConditioningFact) or ConditioningFact()
    latent, tokens, clip = facts.get(LatentFact), facts.get(TokenFact), _fact(facts, ClipFact)
    cells = latent.grid if latent else Grid(clip.frames, *clip.size)

    def values(*shape: int) -> Tensor:
        return torch.empty(clips, *shape, device=META, requires_grad=learns)

    known = None
    if given.known and tokens is not None:
        where = torch.zeros(clips, tokens.grid.cells, dtype=torch.bool, device=META)
        known = Known(torch.empty(clips, tokens.grid.cells, tokens.width, device=META), where)

    def told() -> dict[str, Any]:
        return {
            "pooled": values(given.pooled) if given.pooled else None,
            "sequence": values(given.length, given.sequence) if given.sequence else None,
            "mask": torch.ones(clips, given.length, dtype=torch.bool, device=META) if given.length else None,
            "prompt_ids": torch.zeros(clips, given.length, dtype=torch.long, device=META) if given.vocabulary else None,
            "per_frame": values(cells.frames, given.per_frame) if given.per_frame else None,
            "augmented": values(given.augmented) if given.augmented else None,
            "cells": values(given.cells, *cells) if given.cells else None,
            "known": known,
        }

    return Conditioning(**told(), null=Conditioning(**told()))


def _fact(facts: Facts, kind: type[F]) -> F:
    """A fact that must be there. Raises LookupError."""
    found = facts.get(kind)
    if found is None:
        raise LookupError(f"no {kind.__name__} was published")
    return found


# Forward passes by role


def _autoencoder_pass(part: Autoencoder, facts: Facts) -> Callable[[int], Any]:
    return lambda clips: part(meta_batch(facts, clips).video, _draw(clips))


def _conditioner_pass(part: Conditioner, facts: Facts) -> Callable[[int], Any]:
    return lambda clips: part.embed(meta_batch(facts, clips), _draw(clips))


def _tower_pass(part: Tower, facts: Facts) -> Callable[[int], Any]:
    return lambda clips: part.features(meta_batch(facts, clips).video)  # type: ignore[arg-type]


def _discriminator_pass(part: Discriminator, facts: Facts) -> Callable[[int], Any] | None:
    field = facts.get(FieldFact)
    if field is None:
        return None

    def run(clips: int) -> Any:
        grid = torch.empty(clips, field.channels, field.frames, *field.size, device=META)
        return part(part.view(grid, _draw(clips)), meta_conditioning(facts, clips))

    return run


def _denoiser_pass(part: Denoiser, facts: Facts) -> Callable[[int], Any] | None:
    fact = facts.get(TokenFact)
    if fact is None:
        return None

    def run(clips: int) -> Any:
        canvas, given = Tokens.canvas(fact.grid, clips, META), meta_conditioning(facts, clips)
        match part:
            case LevelDenoiser():
                process = facts.get(LevelProcess)
                shown = fact if process is None else replace(fact, width=process.input_width(fact))
                return part(filled(canvas, shown), torch.empty(clips, device=META), given)
            case TokenDenoiser():
                return part(filled(canvas, fact), given)
            case OneStepDenoiser():
                return part(part.noise(canvas, _draw(clips)), canvas, given)
            case FrameDenoiser():
                return _rollout(part, canvas, given, fact)
            case _:
                raise TypeError(f"no known way to call {type(part).__name__}")

    return run


def _rollout(part: FrameDenoiser, canvas: Tokens, given: Conditioning, fact: TokenFact) -> None:
    clips, (frames, rows, columns) = len(canvas), canvas.grids[0]
    state, frame = part.begin(canvas, given), None
    for t in range(frames):
        _, state = part(frame, state, t, given)
        frame = torch.empty(clips, rows * columns, fact.width, device=META)


# A training step


def _example(model: Model, learn: str, clips: int, facts: Facts, turn: str) -> Example:
    if learn != "denoiser":
        return Example(None, Conditioning(), meta_batch(facts, clips))
    tokens = filled(token_canvas(model, clips), _fact(facts, TokenFact))
    batch = meta_batch(facts, clips, video=False)
    learns = _owner(turn) == LEARNER and any(map(_learns, model.conditioners))
    return Example(tokens, meta_conditioning(facts, clips, learns), batch)


def _begun(objective: Objective, learner: nn.Module) -> Objective:
    """The objective as it is after its phase has started; a copy where that changes it."""
    if type(objective).begin is Objective.begin:
        return objective
    begun = copy.deepcopy(objective)
    begun.begin(learner)
    return begun


def _loss_cost(learner: nn.Module, objective: Objective, example: Example, clips: int, turn: str) -> tuple[int, int]:
    """FLOPs of a loss and its backward pass, and the bytes kept between them."""
    weights = {_storage(p) for module in (learner, objective) for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (place := _storage(tensor)) not in weights:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    def run() -> None:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = objective.loss(learner, example, _draw(clips), turn).total
        total.backward()

    try:
        flops = flops_of(run)
    finally:
        for module in (learner, objective):
            module.zero_grad(set_to_none=True)
    return flops, sum(kept.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _embedding_flops(conditioner: Conditioner, clips: int, facts: Facts) -> int:
    """A conditioner's forward pass; 0 where it cannot be run without data."""
    with _mode(conditioner, training=True), torch.no_grad():
        try:
            return flops_of(lambda: conditioner.embed(meta_batch(facts, clips), _draw(clips)))
        except UNRUNNABLE:
            return 0


def _learns(module: nn.Module) -> bool:
    """Whether a module has weights that are not frozen; what a frozen conditioner gives can be kept."""
    return any(p.requires_grad for p in module.parameters())


def _owner(turn: str) -> str:
    """Who learns in a turn: `learner.path` is the learner's."""
    return turn.partition(".")[0]


def _draw(clips: int) -> Draw:
    return Draw(0, "count", 0, tuple(range(clips)), META)


@contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Modules in training or evaluation mode inside, as they were outside."""
    before = {m: m.training for m in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for member, mode in before.items():
            member.training = mode


@contextmanager
def _only(turn: str, learner: nn.Module, objective: Objective) -> Iterator[None]:
    """Freezes all players but the one whose turn it is."""
    opponents = objective.opponents()
    owner = _owner(turn)
    own = _ids([opponents[owner]]) if owner in opponents else _ids([learner, objective]) - _ids(opponents.values())
    resting = [
        p for module in (learner, objective) for p in module.parameters() if p.requires_grad and id(p) not in own
    ]
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)


def _ids(modules: Iterable[nn.Module]) -> set[int]:
    return {id(p) for module in modules for p in module.parameters()}
