"""The metric `held_loss`: a model's own loss on clips that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.model import Model
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count
from mutoscope.core.values import Batch, Example


@final
class HeldLoss(Metric):
    """The loss of the objective that a model samples by, on each real clip: bits per dimension where that is a
    variational bound, an error where it is one. Models of one objective can be held against each other by it, since all
    see the same levels and noise. No score of a cascade, or against discriminators.

    draws: of levels and noise, for each clip. part: of the loss by name in place of the whole, such as `bits` of
    `improved_ddpm`, by which objectives that share it can be compared too.
    """

    name = "held_loss"
    wants = "model"
    better: Literal["higher", "lower"] = "lower"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *, draws: Count = 16, part: str | None = None) -> None:
        self.draws, self.part = draws, part

    def score(self, material: Material) -> Iterable[Score]:
        model, video = material.model, material.real.video
        if not isinstance(model, Model) or not isinstance(video, Tensor) or model.objective.opponents():
            return []
        model.eval()
        losses = [self._loss(model, material.real, i, material.seed) for i in range(len(video))]
        return [Score(self.name, np.array(losses, dtype=np.float64))]

    @torch.no_grad()
    def _loss(self, model: Model, real: Batch, i: int, seed: int) -> float:
        """The mean over the draws of one clip."""
        numbers = tuple(i * self.draws + k for k in range(self.draws))
        draw = Draw(seed, "held_loss", 0, numbers, model.device)
        assert isinstance(real.video, Tensor)
        one = Batch(
            prompt=None if real.prompt is None else (real.prompt[i],) * self.draws,
            label=None if real.label is None else real.label[i].expand(self.draws),
            actions=None if real.actions is None else real.actions[i].expand(self.draws, -1),
            clips=numbers,
        ).to(model.device)
        latents = model.autoencoder.encode(real.video[i : i + 1].expand(self.draws, -1, -1, -1, -1).to(model.device))
        one = replace(one, latents=latents)
        example = Example(model.patchifier.patchify(latents), model.embed(one, draw), one)
        with draw.forked():
            losses = model.objective.loss(model.denoiser, example, draw, "learner")
        if self.part is None:
            return float(losses.total)
        if self.part not in losses.parts:
            raise InputError(field="metrics.held_loss.part", problem="is no part of the objective's loss", got=self.part,
                             allowed=list(losses.parts))  # fmt: skip
        return float(losses.parts[self.part])

    def protocol(self) -> dict[str, object]:
        return {"metric": self.name, "draws": self.draws} | ({} if self.part is None else {"part": self.part})
