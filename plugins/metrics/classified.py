"""The metric `classified`: does a recipe's tower name the class of a clip?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.model import Model


@final
class Classified(Metric):
    """Share of real clips whose label is the tower's largest logit. No score without a tower that has a head, without
    labels, and in a cascade.

    It looks at the model's tower alone, so that a recipe whose tower learns to classify is scored by it.
    """

    name = "classified"
    wants = "model"

    def score(self, material: Material) -> Iterable[Score]:
        model, real = material.model, material.real
        if not isinstance(model, Model) or model.lacks(("tower",)) or real.label is None:
            return []
        right = []
        with torch.no_grad():
            for part, label in zip(_clips(real.video), real.label, strict=True):
                logits = model.tower.eval().features(part[None].to(model.device)).logits
                if logits is None:
                    return []
                right.append(float(logits[0].argmax() == label.to(logits.device)))
        return [Score(self.name, torch.tensor(right, dtype=torch.float64).numpy())]


def _clips(video: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """C T H W each."""
    return () if video is None else tuple(video)
