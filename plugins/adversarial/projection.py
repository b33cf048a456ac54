"""How a discriminator takes into account what a clip is told."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mutoscope.core.facts import ConditioningFact
from mutoscope.core.values import Conditioning


class Projection(nn.Module):
    """The inner product of a clip's features and its pooled conditioning, added to the clip's scores.

    Miyato & Koyama 2018, eq. 3, arXiv:1802.05637. Without pooled conditioning there are no weights and nothing is added.
    """

    def __init__(self, given: ConditioningFact, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(given.pooled, width, bias=False) if given.pooled else None
        self.scale = width**-0.5

    def forward(self, scores: Tensor, features: Tensor, told: Conditioning, output: int = 0) -> Tensor:
        """Scores B x outputs x places, raised at one of the outputs. features: B x width x places, whose mean counts."""
        if self.embed is None or told.pooled is None:
            return scores
        match = (self.embed(told.pooled) * features.flatten(2).mean(2)).sum(1) * self.scale
        raised = scores[:, output : output + 1] + match.view(-1, *[1] * (scores.ndim - 1))
        return torch.cat([scores[:, :output], raised, scores[:, output + 1 :]], dim=1)
