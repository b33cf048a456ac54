"""The `on_frames` objective: another objective, from single frames."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.component import Nested
from mutoscope.core.objective import Objective, WrappingObjective
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses


@final
class OnFrames(WrappingObjective):
    """One frame of every clip is an image, from which an image autoencoder learns. Blattmann et al. 2023, sec. 3.

    objective: what is descended.
    """

    name = "on_frames"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"
    learns = "autoencoder"
    accepts = Autoencoder

    def __init__(self, *, objective: Objective = Nested("reconstruction")) -> None:  # type: ignore[assignment]
        super().__init__(objective)

    def loss(self, learner: Autoencoder, example: Example, draw: Draw, turn: str) -> Losses:
        video = example.batch.video
        assert isinstance(video, Tensor)
        number = (draw.uniform("frame").view(-1) * video.shape[2]).long()
        images = video[torch.arange(len(video), device=video.device), :, number][:, :, None]
        return self.objective.loss(learner, replace(example, batch=replace(example.batch, video=images)), draw, turn)
