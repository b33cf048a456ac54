"""One training step: the turns of an objective, each with its players, micro-batches, backward pass and update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mutoscope.core.errors import WorkError
from mutoscope.core.generation import autocast
from mutoscope.core.model import Model
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.storage.failpoints import reach, spoiled
from mutoscope.core.training.descent import Average, clip_gradients, learning_rate, make_optimizer
from mutoscope.core.training.distribution import Processes
from mutoscope.core.training.plan import Descent, Phase
from mutoscope.core.values import Batch, Conditioning, Example, Latents

LEARNER = "learner"
SKIPPED = 100
"""Steps in a row that may be skipped because they are not finite; after so many, nothing is being learned."""


class NotFinite(WorkError):
    """A loss or gradient is not finite."""


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
        self.skipped = 0

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
                self._spoil(player)
                norm = clip_gradients(player.parameters, player.descent.clip)
                finite = self._finite(norm, sums, step, turn, micros)
                if finite:
                    player.optimizer.step()
                player.optimizer.zero_grad(set_to_none=True)
            if owner == LEARNER and finite and self.average is not None and turn == LEARNER:
                self.average.update()
            log |= {prefix + name: value for name, value in sums.items()}
            log |= {prefix + "gradient_norm": norm, prefix + "lr": rate}
            if not finite:
                log[prefix + "skipped"] = 1.0
        return log

    def rehearse(self, step: int, micros: list[tuple[range, Batch]]) -> None:
        """Forward and backward of every turn, which changes nothing: to find out whether memory suffices.

        What an optimizer will hold besides is held meanwhile: two numbers for every parameter, as Adam does.
        """
        kept = [(buffer, buffer.clone()) for module in (self.model, self.objective) for buffer in module.buffers()]
        ballast = [torch.zeros_like(p) for player in self.players.values() for p in player.parameters * 2]
        for turn in self.objective.turns(step):
            player = self.players[turn.partition(".")[0]]
            with self._only(player):
                self._gradients(step, turn, micros)
                player.optimizer.zero_grad(set_to_none=True)
        del ballast
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)

    def _gradients(self, step: int, turn: str, micros: list[tuple[range, Batch]]) -> dict[str, Tensor]:
        """Backward passes of a turn over all micro-batches; the means of its losses."""
        sums: dict[str, Tensor] = {}
        for i, (places, batch) in enumerate(micros):
            self._synchronise(turn, last=i == len(micros) - 1)
            draw = Draw(self.phase.descent.seed, f"train.{self.phase.name}", step, tuple(places), self.model.device)
            with draw.of((places.start,)).forked(), autocast(self.model.device, self.phase.descent.precision):
                reach("step.forward")
                losses = self.objective.loss(self.learner, self._example(batch, draw), draw, turn)
            total = spoiled("step.loss", losses.total)
            (total / len(micros)).backward()
            for name, value in {"loss": total, **losses.parts}.items():
                share = value.detach().float() / len(micros)
                sums[name] = sums[name] + share if name in sums else share
        return {name: self.processes.mean(value) for name, value in sums.items()}

    def _example(self, batch: Batch, draw: Draw) -> Example:
        if self.phase.learn != "denoiser":
            return Example(None, Conditioning(), batch)
        assert batch.latents is not None
        tokens = self.model.patchifier.patchify(_drawn(batch.latents, draw), draw)
        batch = replace(batch, tokens=tokens)
        return Example(tokens, self.model.embed(batch, draw, keep=True), batch)

    def _synchronise(self, turn: str, last: bool) -> None:
        """With many processes, gradients travel once a step: at the last micro-batch."""
        if self.processes.count > 1:
            for module in self.players[turn.partition(".")[0]].modules:
                if hasattr(module, "set_requires_gradient_sync"):
                    module.set_requires_gradient_sync(last)  # type: ignore[operator]

    def _finite(
        self, norm: Tensor, sums: Mapping[str, Tensor], step: int, turn: str, micros: list[tuple[range, Batch]]
    ) -> bool:
        """Whether the update may be made. One read a turn, after everything has been queued.

        Raises NotFinite on a loss or gradient that is not finite, unless the phase says to skip it and has not skipped
        too many in a row.
        """
        if bool(torch.isfinite(norm + sums["loss"])):
            self.skipped = 0
            return True
        self.skipped += 1
        first = f"{self.phase.name}: step {step}: the {turn} turn's loss or gradient is not finite"
        if self.phase.descent.on_nan == "skip":
            modules = {"model": self.model, "objective": self.objective}
            spoilt = next((f"{k}.{n}" for k, m in modules.items() for n, b in m.named_buffers() if _broken(b)), None)
            if spoilt is not None:
                raise WorkError(f"{first}, and it has spoilt {spoilt}, so it cannot be skipped; on_nan: rollback can")
            if self.skipped <= SKIPPED:
                return False
            raise WorkError(f"{first}, as in the {SKIPPED} steps before; first in {self._culprit(sums, turn, micros)}")
        raise NotFinite(f"{first}, first in {self._culprit(sums, turn, micros)}")

    def _culprit(self, sums: Mapping[str, Tensor], turn: str, micros: list[tuple[range, Batch]]) -> str:
        """Where the first value is that is not finite, from the data on."""
        for places, batch in micros:
            for name, values in (("video", batch.video), ("latents", batch.latents and batch.latents.values)):
                bad = next((i for i, clip in enumerate(values) if _broken(clip)), None) if values is not None else None
                if bad is not None:
                    clip = batch.clips[bad] if batch.clips else places[bad]
                    return f"the {name} of training clip {clip}"
        for name, player in self.players.items():
            bad = next((n for n, p in player.named.items() if _broken(p)), None)
            if bad is not None:
                return f"the weights of {bad} ({name})"
        bad = next((name for name, value in sums.items() if name != "loss" and _broken(value)), None)
        if bad is not None:
            return f"the loss's part {bad}"
        if _broken(sums["loss"]):
            return "the loss"
        named = self.players[turn.partition(".")[0]].named
        return next((f"the gradient of {name}" for name, p in named.items() if _broken(p.grad)), "the gradient's norm")

    def _spoil(self, player: Player) -> None:
        """A failpoint."""
        first = next((p for p in player.parameters if p.grad is not None), None)
        if first is not None and first.grad is not None:
            first.grad = spoiled("step.gradient", first.grad)

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


def _broken(values: Tensor | None) -> bool:
    return values is not None and values.is_floating_point() and not bool(torch.isfinite(values).all())
