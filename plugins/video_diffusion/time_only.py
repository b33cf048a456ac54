"""The `time_only` objective: another objective, from which an image model's layers of time alone learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, final

from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.facts import Need, TokenFact
from mutoscope.core.objective import Objective, WrappingObjective
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.video_diffusion.inflated import Inflated

Several = Need("clips of several frames", lambda fact: fact.grid.frames > 1)


@final
class TimeOnly(WrappingObjective):
    """The image model and the conditioners stay to the last bit what they are; the layers of time learn.

    Blattmann et al. 2023, eq. 2, arXiv:2304.08818: the image model's own noise schedule is kept, as the nested
    objective should say. The phase comes after one that trained the image model, or on published weights: of an image
    model whose output is still zero nothing behind it learns.

    objective: what is descended.
    """

    name = "time_only"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"
    accepts = Inflated

    def __init__(
        self,
        tokens: Annotated[TokenFact, Several],
        *,
        objective: Objective = Nested("ddpm"),  # type: ignore[assignment]
    ) -> None:
        super().__init__(objective)

    def restrict(self, learner: Inflated) -> None:
        learner.image.requires_grad_(False)
        self.objective.restrict(learner)

    def loss(self, learner: Inflated, example: Example, draw: Draw, turn: str) -> Losses:
        told = example.conditioning.each(Tensor.detach)
        return self.objective.loss(learner, replace(example, conditioning=told), draw, turn)
