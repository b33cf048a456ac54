"""The `one_hot` conditioner: the class itself, with nothing learned."""

from __future__ import annotations

from typing import Annotated, final

import torch

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact, ConditioningFact, Labelled
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.values import Batch, Conditioning


@final
class OneHot(Conditioner):
    """The class as a vector with a single one, and as a prompt of one id. No class is the zero vector.

    A denoiser's linear layer on it is a table of classes, as the U-Nets of Dhariwal & Nichol 2021 and Karras et al.
    2022 have one. Classifier guidance reads the id. A batch without labels has them drawn, all classes alike.

    told: whether the vector is given too; without it only a classifier hears of the class. dropout: share of training
    clips that are told no class, so that guidance is possible; 0 rules guidance out.
    """

    name = "one_hot"
    paper = "Karras et al. 2022, arXiv:2206.00364"

    def __init__(self, clip: Annotated[ClipFact, Labelled], *, told: bool = True, dropout: Share = 0.0) -> None:
        super().__init__()
        self.classes, self.told, self.dropout = clip.classes, told, dropout

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError, outside training, on a label that is no class."""
        labels = batch.label
        if labels is None:
            labels = (draw.uniform("label") * self.classes).long().clamp(max=self.classes - 1)
        elif not self.training and (strange := labels[(labels < 0) | (labels >= self.classes)]).numel():
            raise InputError(
                field="label", problem="is no class", got=strange[0].item(), allowed=f"0 to {self.classes - 1}"
            )
        labels = labels.to(draw.device)
        # one_hot looks at its values, which there are none of on the meta device.
        every = torch.arange(self.classes, device=labels.device)
        pooled = (labels[:, None] == every).float() if self.told else None
        null = None
        if self.dropout > 0 and pooled is not None:
            null = Conditioning(pooled=torch.zeros_like(pooled))
        return Conditioning(pooled=pooled, prompt_ids=labels[:, None], null=null)

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(pooled=self.classes if self.told else 0, length=1, vocabulary=self.classes),)
