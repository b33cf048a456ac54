"""The `writing` objective: what a writer should have written."""

from __future__ import annotations

from typing import final

import torch

from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses
from mutoscope.core.writer import LearnedWriter


@final
class Writing(Objective):
    """The sum of a writer's losses: likelihoods of captions and of longer prompts, whichever it learns."""

    name = "writing"
    paper = "Betker et al. 2023, Improving image generation with better captions"
    learns = "writer"
    accepts = LearnedWriter

    def loss(self, learner: LearnedWriter, example: Example, draw: Draw, turn: str) -> Losses:
        losses = learner.losses(example.batch, draw)
        total = torch.stack(list(losses.values())).sum()
        return Losses(total, {name: loss.detach() for name, loss in losses.items()})
