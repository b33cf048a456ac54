"""One training step: the turns of an objective, each with its players, micro-batches, backward pass and update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mutoscope.core.errors import WorkError
from mutoscope.core.generation import autocast
from mutoscope.core.model import Model
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.training.descent import Average, clip_gradients, learning_rate, make_optimizer
from mutoscope.core.training.distribution import Processes
from mutoscope.core.training.plan import Descent, Phase
from mutoscope.core.values import Batch, Conditioning, Example, Latents

LEARNER = "learner"


class Player:
    """Who learns in a turn: modules, their trainable parameters, and the optimizer over them."""

    def __init__(self, modules: Mapping[str, nn.Module], descent: Descent) -> None:
        self.descent = descent
        self.named = {
            f"{address}.{name}": parameter
            for address, module in modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.modules = list(modules.values())
        self.parameters = list(self.named.values())
        self.optimizer = make_optimizer(descent, self.parameters)

    def set_rate(self, step: int) -> float:
        rate = learning_rate(self.descent, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate


class Turns:
    """The players of a phase and the step that they take together.

    The learner's turn moves the learner, with a denoiser also the conditioners that are not frozen and whatever the
    objective itself learns; every other turn moves one opponent. Those whose turn it is not are frozen.
    """

    def __init__(self, model: Model, phase: Phase, processes: Processes) -> None:
        self.model, self.phase, self.processes = model, phase, processes
        self.objective: Objective = phase.objective
        self.learner: Any = model.part(phase.learn)
        opponents = self.objective.opponents()
        theirs = {id(p) for module in opponents.values() for p in module.parameters()}
        team: dict[str, nn.Module] = {phase.learn: self.learner}
        if phase.learn == "denoiser":
            team |= {f"conditioner.{i}": c for i, c in enumerate(model.conditioners)}
        if any(p.requires_grad and id(p) not in theirs for p in self.objective.parameters()):
            team["objective"] = _Own(self.objective, theirs)
        self.players = {LEARNER: Player(team, phase.descent)}
        self.players |= {
            turn: Player({turn: module}, phase.turns.get(turn, phase.descent)) for turn, module in opponents.items()
        }
        self.average = Average(self.players[LEARNER].parameters, phase.descent) if phase.descent.ema else None

    def step(self, step: int, micros: list[tuple[range, Batch]]) -> dict[str, Tensor | float]:
        """Takes one step; gives what is worth logging, tensors unread."""
        log: dict[str, Tensor | float] = {}
        turns = self.objective.turns(step)
        for turn in turns:
            owner = turn.partition(".")[0]
            player = self.players[owner]
            rate = player.set_rate(step)
            prefix = f"{turn}." if len(turns) > 1 else ""
            with self._only(player):
                sums = self._gradients(step, turn, micros)
                norm = clip_gradients(player.parameters, player.descent.clip)
                finite = self._finite(norm, sums["loss"], step, turn)
                if finite:
                    player.optimizer.step()
                player.optimizer.zero_grad(set_to_none=True)
            if owner == LEARNER and finite and self.average is not None and turn == LEARNER:
                self.average.update()
            log |= {prefix + name: value for name, value in sums.items()}
            log |= {prefix + "gradient_norm": norm, prefix + "lr": rate}
        return log

    def _gradients(self, step: int, turn: str, micros: list[tuple[range, Batch]]) -> dict[str, Tensor]:
        """Backward passes of a turn over all micro-batches; the means of its losses."""
        sums: dict[str, Tensor] = {}
        for i, (places, batch) in enumerate(micros):
            self._synchronise(turn, last=i == len(micros) - 1)
            draw = Draw(self.phase.descent.seed, f"train.{self.phase.name}", step, tuple(places), self.model.device)
            with draw.of((places.start,)).forked(), autocast(self.model.device, self.phase.descent.precision):
                losses = self.objective.loss(self.learner, self._example(batch, draw), draw, turn)
            (losses.total / len(micros)).backward()
            for name, value in {"loss": losses.total, **losses.parts}.items():
                share = value.detach().float() / len(micros)
                sums[name] = sums[name] + share if name in sums else share
        return {name: self.processes.mean(value) for name, value in sums.items()}

    def _example(self, batch: Batch, draw: Draw) -> Example:
        if self.phase.learn != "denoiser":
            return Example(None, Conditioning(), batch)
        assert batch.latents is not None
        tokens = self.model.patchifier.patchify(_drawn(batch.latents, draw), draw)
        return Example(tokens, self.model.embed(batch, draw, keep=True), batch)

    def _synchronise(self, turn: str, last: bool) -> None:
        """With many processes, gradients travel once a step: at the last micro-batch."""
        if self.processes.count > 1:
            for module in self.players[turn.partition(".")[0]].modules:
                if hasattr(module, "set_requires_gradient_sync"):
                    module.set_requires_gradient_sync(last)  # type: ignore[operator]

    def _finite(self, norm: Tensor, loss: Tensor, step: int, turn: str) -> bool:
        """Whether the update may be made. One read a turn, after everything has been queued.

        Raises WorkError on a loss or gradient that is not finite, unless the phase says to skip it.
        """
        if bool(torch.isfinite(norm + loss)):
            return True
        if self.phase.descent.on_nan == "skip":
            return False
        bad = next((n for n, p in self.players[turn.partition(".")[0]].named.items() if _broken(p.grad)), "the loss")
        raise WorkError(
            f"{self.phase.name}: step {step}: the {turn} turn's loss or gradient is not finite, first in {bad}"
        )

    @contextmanager
    def _only(self, player: Player) -> Iterator[None]:
        """Freezes the players whose turn it is not."""
        others = [p for other in self.players.values() if other is not player for p in other.parameters]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)


def _drawn(latents: Latents, draw: Draw) -> Latents:
    """Latents drawn anew from their posterior, where its spread is known."""
    values, spread = latents.values, latents.spread
    if spread is None or isinstance(values, tuple):
        return latents
    return Latents(values + spread * draw.normal("posterior", *values.shape[1:]), latents.ids)


class _Own(nn.Module):
    """An objective's own parameters, without its opponents'."""

    def __init__(self, objective: Objective, without: set[int]) -> None:
        super().__init__()
        for name, parameter in objective.named_parameters():
            if id(parameter) not in without:
                self.register_parameter(name.replace(".", "__"), parameter)


def _broken(gradient: Tensor | None) -> bool:
    return gradient is not None and not bool(torch.isfinite(gradient).all())
