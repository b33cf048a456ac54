"""The objective role: what a phase descends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import nn

from mutoscope.core.component import Component
from mutoscope.core.process import Process
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses


class Objective(Component, nn.Module, ABC):
    """A loss for a learner, and the process that says what the learner's output means.

    learns: the role it teaches. accepts: the class the learner must be, checked at assembly. process: published to the
    denoiser and the sampler; None where the learner is not a denoiser.
    """

    role: ClassVar[str] = "objective"
    learns: ClassVar[str] = "denoiser"
    accepts: ClassVar[type | tuple[type, ...]] = nn.Module
    process: Process | None = None

    @abstractmethod
    def loss(self, learner: Any, example: Example, draw: Draw, turn: str) -> Losses:
        """The loss of one micro-batch in one turn; a mean over clips, so that equal micro-batches average."""

    def facts(self) -> Iterable[Any]:
        """The process."""
        return () if self.process is None else (self.process,)

    def begin(self, learner: Any) -> None:
        """Called once when its phase starts, before the optimizers are made."""

    def restrict(self, learner: Any) -> None:
        """Called when its phase starts or resumes, after `begin`: marks by `requires_grad` what of the learner is to
        stay as it is. By default all of it learns."""

    def opponents(self) -> dict[str, nn.Module]:
        """What learns in turns of its own, by turn name: `{"discriminator": ...}`."""
        return {}

    def turns(self, step: int) -> tuple[str, ...]:
        """The turns of a step, in order: `learner`, or a key of `opponents`. A lazy regulariser comes as
        `learner.path`: what stands before the dot names who learns."""
        return ("learner",)


class WrappingObjective(Objective, ABC):
    """An objective around another: it changes what that one is shown, or what of the learner learns.

    Everything else is the inner one's, whose process, opponents and turns are also this one's.

    objective: the one within.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.process = objective.process

    def facts(self) -> Iterable[Any]:
        return self.objective.facts()

    def begin(self, learner: Any) -> None:
        self.objective.begin(learner)

    def restrict(self, learner: Any) -> None:
        self.objective.restrict(learner)

    def opponents(self) -> dict[str, nn.Module]:
        return self.objective.opponents()

    def turns(self, step: int) -> tuple[str, ...]:
        return self.objective.turns(step)
