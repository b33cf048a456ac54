"""The `clip_text` conditioner: prompts as a contrastive model reads them, for a prior."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from mutoscope.core.component import Nested
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.facts import Captioned, ClipFact, ConditioningFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Natural, Share
from mutoscope.core.tower import JointTower
from mutoscope.core.values import Batch, Conditioning
from mutoscope.plugins.unclip.clip_image import embedded, frozen

FORGETS = 0.99
"""How much of the mean and the variance of agreements is kept from step to step."""


@final
class ClipText(Conditioner):
    """Text features of a frozen contrastive model and its text embedding. Ramesh et al. 2022, sec. 2.2.

    Gives the sequence, the embedding of unit length as the pooled vector, and the ids. With buckets of agreement, the
    sequence ends in a learned vector of the bucket that the cosine of image and text embedding falls into: in training
    that of the clip itself, in sampling one of the upper half, drawn. Buckets are quantiles of a normal distribution
    with the mean and deviation of the cosines that training has seen.

    tower: frozen. agreement: buckets; 0 is none. dropout: share of training clips whose text is hidden, as an empty
    prompt; 0 rules guidance out.
    """

    name = "clip_text"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    tiny: ClassVar[dict[str, Any]] = {"tower": Nested("clip", {"shipped": False})}

    moments: Tensor

    def __init__(
        self,
        clip: Annotated[ClipFact, Captioned],
        *,
        tower: JointTower = Nested("clip"),  # type: ignore[assignment]
        agreement: Natural = 0,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.tower, self.agreement, self.dropout = frozen(tower), agreement, dropout
        self.width, self.length = tower.text
        self.sees = clip.frames if agreement else 0
        self.table = nn.Embedding(agreement, self.width) if agreement else None
        self.register_buffer("moments", torch.tensor([0.5, 0.01]))

    def forward(self, buckets: Tensor) -> Tensor:
        """K integers to K 1 width."""
        assert self.table is not None
        return self.table(buckets)[:, None]

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        prompts = batch.prompt if batch.prompt is not None else ("",) * len(batch)
        with torch.no_grad():
            said = self.tower.read([*prompts, ""])
        told, nothing = said.each(lambda x: x[:-1]), said.each(lambda x: x[-1:].expand(len(prompts), *x.shape[1:]))
        if self.agreement:
            last = self(self.buckets(batch, told, draw))
            told, nothing = (self._ended(one, last) for one in (told, nothing))
        return (
            told
            if self.dropout == 0
            else Conditioning(told.pooled, told.sequence, told.mask, told.prompt_ids, null=nothing)
        )

    def _ended(self, told: Conditioning, last: Tensor) -> Conditioning:
        assert told.sequence is not None and told.mask is not None
        mask = torch.cat([told.mask, told.mask.new_ones(len(last), 1)], dim=1)
        return Conditioning(told.pooled, torch.cat([told.sequence, last], dim=1), mask, told.prompt_ids)

    @torch.no_grad()
    def buckets(self, batch: Batch, told: Conditioning, draw: Draw) -> Tensor:
        """The bucket of each clip's agreement with its prompt; without the clip one of the upper half. K integers."""
        if batch.opening is None:
            half = self.agreement // 2
            return half + (draw.uniform("agreement").view(-1) * (self.agreement - half)).long()
        assert told.pooled is not None
        cosines = (embedded(self.tower, batch.opening.to(told.pooled.device)) * told.pooled).sum(dim=1)
        if self.training:
            seen = torch.stack([cosines.mean(), (cosines - self.moments[0]).square().mean()])
            self.moments.lerp_(seen, 1 - FORGETS)
        z = (cosines - self.moments[0]) / self.moments[1].sqrt().clamp(min=1e-4)
        share = 0.5 * (1 + torch.erf(z / 2**0.5))
        return (share * self.agreement).long().clamp(0, self.agreement - 1)

    def facts(self) -> tuple[ConditioningFact, ...]:
        length = self.length + (self.agreement > 0)
        fact = ConditioningFact(
            pooled=self.tower.width, sequence=self.width, length=length, vocabulary=self.tower.vocabulary
        )
        return (fact,)
