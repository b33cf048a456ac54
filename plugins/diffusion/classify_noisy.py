"""The `classify_noisy` objective: a tower learns to tell the class of noisy clips."""

from __future__ import annotations

from typing import Annotated, final

import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.facts import Additive, ClipFact, Labelled, LatentFact
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Steps
from mutoscope.core.tower import Tower
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.diffusion.ddpm import DdpmProcess, Schedule, betas


@final
class ClassifyNoisy(Objective):
    """Cross-entropy of the class at evenly drawn levels of noise. Dhariwal & Nichol 2021, sec. 4 and app. H.

    Clips are made noisy as the recipe's denoising objective makes them, in its own latents where those are pixels moved
    and scaled (`identity`); a recipe that has no such objective is given a chain. The
    evenly drawn times are steps of the chain, or times in [0, 1] of a process without one.

    steps, schedule: of that chain, as in `ddpm`.
    """

    name = "classify_noisy"
    paper = "Dhariwal & Nichol 2021, arXiv:2105.05233"
    learns = "tower"
    accepts = Tower

    def __init__(
        self,
        clip: Annotated[ClipFact, Labelled],
        process: Annotated[LevelProcess | None, Additive],
        latents: LatentFact | None,
        *,
        steps: Steps = 1000,
        schedule: Schedule = "linear",
    ) -> None:
        super().__init__()
        self.steps = steps
        self.shift, self.scale = (latents.pixels if latents is not None else None) or (0.0, 1.0)
        self.noise: LevelProcess = DdpmProcess(betas(schedule, steps)) if process is None else process

    def loss(self, learner: Tower, example: Example, draw: Draw, turn: str) -> Losses:
        video, label = example.batch.video, example.batch.label
        assert isinstance(video, Tensor)
        assert label is not None
        level = (draw.uniform("time") * self.steps).floor().add(1) / self.steps
        a, s = (c.view(-1, 1, 1, 1, 1) for c in self.noise.coefficients(level))
        noisy = a * (video - self.shift) * self.scale + s * draw.normal("noise", *video.shape[1:])
        logits = learner.features(noisy, self.noise.coordinate(level)).logits
        assert logits is not None
        loss = F.cross_entropy(logits.float(), label)
        right = (logits.argmax(dim=1) == label).float().mean()
        return Losses(loss, {"right": right.detach()})
