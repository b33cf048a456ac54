"""The `time_only` objective: another objective, from which an image model's layers of time alone learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn

from mutoscope.core.component import Nested
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.video_diffusion.inflated import Inflated


@final
class TimeOnly(Objective):
    """The image model and the conditioners stay to the last bit what they are; the layers of time learn.

    Blattmann et al. 2023, eq. 2, arXiv:2304.08818: the image model's own noise schedule is kept, as the nested
    objective should say.

    objective: what is descended.
    """

    name = "time_only"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"
    accepts = Inflated

    def __init__(self, *, objective: Objective = Nested("ddpm")) -> None:  # type: ignore[assignment]
        super().__init__()
        self.objective, self.process = objective, objective.process

    def begin(self, learner: Any) -> None:
        self.objective.begin(learner)

    def restrict(self, learner: Inflated) -> None:
        learner.image.requires_grad_(False)
        self.objective.restrict(learner)

    def opponents(self) -> dict[str, nn.Module]:
        return self.objective.opponents()

    def turns(self, step: int) -> tuple[str, ...]:
        return self.objective.turns(step)

    def loss(self, learner: Inflated, example: Example, draw: Draw, turn: str) -> Losses:
        told = example.conditioning.each(Tensor.detach)
        return self.objective.loss(learner, replace(example, conditioning=told), draw, turn)
