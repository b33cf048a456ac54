"""The objective `my_part`: rectified flow under a robust loss. A start to change."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Positive
from mutoscope.core.values import Example, Losses


@final
class MyPartProcess(LevelProcess):
    """The straight path x = (1 - t) x0 + t eps; the network gives its slope, eps - x0."""

    kind = "flow"

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - level, level


@final
class MyPart(Objective):
    """The slope of the straight path from data to noise, under Huber's loss.

    delta: errors beyond it count linearly.
    """

    name = "my_part"
    accepts = LevelDenoiser

    def __init__(self, *, delta: Positive = 1.0) -> None:
        super().__init__()
        self.delta = delta
        self.process = MyPartProcess()

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens = example.tokens
        assert tokens is not None
        noise, level = draw.like(tokens), draw.uniform("time")
        noisy = self.process.noised(tokens, noise, level, example.conditioning.known)
        said = self.process.predict(learner, noisy, level, example.conditioning)
        error = F.huber_loss(said.as_flow().float(), noise - tokens.filled(), reduction="none", delta=self.delta)
        # A mean over each clip, then over clips, so that equal micro-batches average.
        total = error.mean()
        return Losses(total, {"loss": total.detach()})


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
