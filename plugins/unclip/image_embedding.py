"""The `image_embedding` conditioner: what the decoder is told of the picture to make."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.component import Nested
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, EarlierFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Natural, Share, Width
from mutoscope.core.tower import JointTower
from mutoscope.core.values import Batch, Conditioning
from mutoscope.plugins.unclip.clip_image import embedded, frozen


@final
class ImageEmbedding(Conditioner):
    """The image embedding: a pooled vector, and further tokens of context. Ramesh et al. 2022, sec. 2.1.

    It is that of the earlier stage's video. In training that is the clip itself; in sampling it is what a prior has
    drawn (a stage with `clip_image` or `clip_codes`, whose video is the embedding), or any video of an earlier stage,
    which is then varied.

    tower: frozen; the one of the prior. tokens: of context that the embedding is projected to. width: of those; as that
    of the caption's. dropout: share of training clips whose embedding is zero, so that guidance is possible.
    """

    name = "image_embedding"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    tiny: ClassVar[dict[str, Any]] = {"tower": Nested("clip", {"shipped": False}), "width": 8}

    def __init__(
        self,
        earlier: EarlierFact,
        *,
        tower: JointTower = Nested("clip"),  # type: ignore[assignment]
        tokens: Natural = 4,
        width: Width = 512,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if tower.width <= earlier.channels:
            raise ValueError(f"tower: an embedding of {tower.width} numbers is not told from video")
        self.tower, self.tokens, self.width, self.dropout = frozen(tower), tokens, width, dropout
        self.context = nn.Linear(tower.width, tokens * width) if tokens else None

    def forward(self, vectors: Tensor) -> Tensor | None:
        """K D to K tokens width."""
        return None if self.context is None else rearrange(self.context(vectors), "k (n d) -> k n d", n=self.tokens)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError on a batch without an earlier stage's video."""
        if batch.earlier is None:
            raise InputError(field="conditioner", problem="image_embedding needs an earlier stage")
        vectors = self.vectors(batch.earlier.to(draw.device)) * self.tower.width**0.5
        told = self._told(vectors)
        if self.dropout == 0:
            return told
        return Conditioning(told.pooled, told.sequence, told.mask, null=self._told(torch.zeros_like(vectors)))

    @torch.no_grad()
    def vectors(self, earlier: Tensor) -> Tensor:
        """K D of unit length: as an earlier stage has drawn them, or of its video."""
        if earlier.shape[1] == self.tower.width:
            return earlier[:, :, 0, 0, 0].float()
        return embedded(self.tower, earlier)

    def _told(self, vectors: Tensor) -> Conditioning:
        context = self(vectors)
        mask = None if context is None else torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        return Conditioning(vectors, context, mask)

    def facts(self) -> tuple[ConditioningFact, ...]:
        tokens = self.tokens
        return (ConditioningFact(self.tower.width, self.width if tokens else 0, tokens),)
