"""The `reranked` sampler: of several samples the one that fits the prompt best."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.denoiser import Denoiser
from mutoscope.core.errors import InputError
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Count
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch, Conditioning, Tokens


@final
class Reranked(Sampler):
    """Samples several candidates of each clip and keeps the one that a contrastive model likes best.

    Ramesh et al. 2021, sec. 2.6, arXiv:2102.12092, which takes the best of 512 by CLIP. The score is the cosine between
    the tower's pooled features of the clip and the conditioner's pooled vector of its prompt, which must be of one
    space. Costs so many times as much.

    candidates: sampled per clip. sampler: draws them, of whatever family. tower: looks at them. text: reads the prompt.
    """

    name = "reranked"
    paper = "Ramesh et al. 2021, arXiv:2102.12092"
    accepts = Denoiser
    tiny: ClassVar[dict[str, Any]] = {
        "candidates": 2,
        "tower": Nested("image_tower", {"model": "test_vit"}),
        "text": Nested("text", {"width": 64, "depth": 1, "heads": 2, "length": 12}),
    }

    def __init__(
        self,
        *,
        candidates: Count = 16,
        sampler: Sampler = Nested("raster"),  # type: ignore[assignment]
        tower: Tower = Nested("image_tower", {"source": "open_clip", "model": "ViT-B-32"}),  # type: ignore[assignment]
        text: Conditioner = Nested("clip"),  # type: ignore[assignment]
    ) -> None:
        super().__init__()
        self.candidates, self.sampler, self.tower, self.text = candidates, sampler, tower, text
        self.goes_on_from = sampler.goes_on_from
        for judge in (tower, text):
            judge.requires_grad_(False)

    def sample(self, denoiser: Denoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        """One candidate."""
        return self.sampler.sample(denoiser, canvas, conditioning, draw)

    def calls(self, canvas: Tokens) -> int:
        return self.candidates * self.sampler.calls(canvas)

    def caches(self) -> int:
        return self.sampler.caches()

    def scores(self, video: Tensor, batch: Batch) -> Tensor:
        seen = self.tower.features(video.float().clamp(-1, 1)).pooled
        asked = self.text.embed(batch, Draw(0, "rerank", 0, batch.clips, video.device)).pooled
        if seen is None or asked is None or seen.shape != asked.shape:
            raise InputError(
                field="sampler", problem="reranking needs a tower and a text of one space, with a pooled vector each"
            )
        return F.cosine_similarity(seen.float(), asked.float(), dim=-1)
