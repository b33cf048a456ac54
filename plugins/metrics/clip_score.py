"""The metric `clip_score`: how well clips go with their captions, as a contrastive model sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.tower import JointTower
from mutoscope.plugins.metrics.extraction import TOGETHER


@final
class ClipScore(Metric):
    """A hundred times the cosine of a clip's embedding and its caption's, at least 0: CLIPSIM of Wu et al. 2021,
    arXiv:2104.14806, sec. 4.2, with the bound and the factor of torchmetrics.

    `clip_score.others` is the mean over other captions of the set, the floor: where the two do not differ, nothing is
    asked of the clips. The shipped tower knows colour, shape and whether a thing moves, not where to; a model that sees
    frames alone, such as open_clip's own with one tile, cannot tell a video from its reverse. For motion there are
    `caption` and `motion`.

    tower: sees and reads.
    """

    name = "clip_score"
    paper = "Wu et al. 2021, arXiv:2104.14806"

    def __init__(self, *, tower: JointTower = Nested("clip")) -> None:  # type: ignore[assignment]
        self.tower = tower

    def score(self, material: Material) -> Iterable[Score]:
        """Raises InputError on data without captions."""
        prompts = material.real.prompt
        if prompts is None or not any(prompts):
            raise InputError(field="metrics", problem="clip_score needs clips with captions")
        seen, read = embeddings(self.tower, material.video, prompts)
        cosines = (seen @ read.T).double().cpu().numpy()
        own = np.diag(cosines)
        differ = np.array([[a != b for b in prompts] for a in prompts])
        others = (cosines * differ).sum(axis=1) / np.maximum(differ.sum(axis=1), 1)
        floor = np.where(differ.any(axis=1), others, own)
        return [
            Score(self.name, 100 * own.clip(min=0)),
            Score(f"{self.name}.others", 100 * floor.clip(min=0)),
        ]

    def protocol(self) -> dict[str, object]:
        return {"metric": self.name, "tower": self.tower.fingerprint()}


@torch.no_grad()
def embeddings(tower: JointTower, video: Tensor, prompts: Iterable[str]) -> tuple[Tensor, Tensor]:
    """Unit vectors of clips and of texts, N D each."""
    device = next(iter(tower.parameters())).device
    tower.eval()
    rows = [tower.features(part.float().to(device)).pooled for part in video.split(TOGETHER)]
    read = tower.read(list(prompts)).pooled
    assert read is not None
    return torch.cat([row for row in rows if row is not None]).float(), read.float()
