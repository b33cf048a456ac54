"""The `label` conditioner: one vector per class."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor, nn

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact, ConditioningFact, Labelled
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share, Width
from mutoscope.core.values import Batch, Conditioning


@final
class Label(Conditioner):
    """A learned vector for each class, and one more for no class.

    The table of classes + 1 rows of Peebles & Xie 2023, sec. 3.2. Gives a pooled vector. A batch without labels has
    them drawn, all classes alike.

    width: of the vectors. dropout: share of training clips that are told no class, so that guidance is possible; 0
    rules guidance out.
    """

    name = "label"
    paper = "Peebles & Xie 2023, arXiv:2212.09748"

    def __init__(self, clip: Annotated[ClipFact, Labelled], *, width: Width = 128, dropout: Share = 0.1) -> None:
        super().__init__()
        self.classes, self.width, self.dropout = clip.classes, width, dropout
        self.table = nn.Embedding(clip.classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        """K integers to K D; the number of classes stands for none."""
        return self.table(labels)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError, outside training, on a label that is no class."""
        device = self.table.weight.device
        labels = batch.label
        if labels is None:
            labels = (draw.uniform("label") * self.classes).long().clamp(max=self.classes - 1)
        elif not self.training and (strange := labels[(labels < 0) | (labels >= self.classes)]).numel():
            raise InputError(
                field="label", problem="is no class", got=strange[0].item(), allowed=f"0 to {self.classes - 1}"
            )
        labels = labels.to(device)
        null = None
        if self.dropout > 0:
            null = Conditioning(pooled=self(torch.full_like(labels, self.classes)))
        return Conditioning(pooled=self(labels), null=null)

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(pooled=self.width),)
