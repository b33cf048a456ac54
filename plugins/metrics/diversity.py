"""The metric `diversity`: does a prompt give different clips, and are they new?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, final

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from mutoscope.core.component import Nested
from mutoscope.core.dataset import Dataset
from mutoscope.core.generation import Request, generate
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.model import Cascade, Model
from mutoscope.core.settings import Count, Share
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch
from mutoscope.plugins.metrics.extraction import features

SMALL = 16
"""Rows and columns to which clips are shrunk before pixels are compared."""
GROUPS = 8
"""Captions that at least two real clips share, from which their spread under one caption is told."""
BLOCK = 256


@final
class Diversity(Metric):
    """Spread of the clips of one prompt, against that of real clips, and share of clips that copy training data.

    diversity.spread: the variance of features over samples of one prompt from other noise, per prompt, in units of that
    of real clips that share a caption, or of all real clips where too few do; 1 is as spread as real ones, 0 the same
    clip again. It needs the model. diversity.copying: share of clips that are nearer to a training clip, by pixels,
    than all but few of the real clips of the split are; lower is better, and `few` is what fresh real clips get.

    extractor: the tower whose features spread. prompts, samples: how many, and clips for each. train: training clips
    that are looked through. few: share of the real clips that sets how near a copy is.
    """

    name = "diversity"

    def __init__(
        self,
        *,
        extractor: Tower = Nested("mutonet"),  # type: ignore[assignment]
        prompts: Count = 24,
        samples: Annotated[int, Ge(2)] = 6,
        train: Count = 4096,
        few: Share = 0.05,
    ) -> None:
        self.extractor, self.prompts, self.samples, self.train, self.few = extractor, prompts, samples, train, few

    def better_of(self, score: str) -> Literal["higher", "lower"]:
        return "lower" if score.endswith(".copying") else "higher"

    def score(self, material: Material) -> Iterable[Score]:
        """Leaves out what there is no model, or no training data, to tell from."""
        scores = []
        if material.model is not None:
            scores.append(Score(f"{self.name}.spread", self._spread(material, material.model)))
        real = material.real.video
        if material.dataset is not None and isinstance(real, Tensor):
            nearest = nearest_training(material.dataset, [material.video, real], self.train)
            if nearest is not None:
                made, ours = nearest
                scores.append(Score(f"{self.name}.copying", (made < np.quantile(ours, self.few)).astype(np.float64)))
        return scores

    def _spread(self, material: Material, model: Model | Cascade) -> np.ndarray:
        """One number for each prompt."""
        asked = material.real
        assert isinstance(asked.video, Tensor)
        count = min(self.prompts, len(asked))
        clips = [
            features(self.extractor, again(model, asked, count, material.seed + 1 + i)) for i in range(self.samples)
        ]
        reference = features(self.extractor, material.reference)
        scale = np.maximum(reference.std(0, ddof=1), 1e-6 * max(float(reference.std(0).max()), 1e-12))
        within = (np.stack(clips) / scale).var(0, ddof=1).mean(1)
        return within / max(real_spread(reference / scale, _captions(material)), 1e-12)

    def protocol(self) -> dict[str, object]:
        return {
            "metric": self.name,
            "extractor": self.extractor.fingerprint(),
            "prompts": self.prompts,
            "samples": self.samples,
            "train": self.train,
            "few": self.few,
            "pixels": SMALL,
        }


def again(model: Model | Cascade, asked: Batch, count: int, seed: int) -> Tensor:
    """The first clips that were asked for, sampled from other noise."""
    assert isinstance(asked.video, Tensor)
    frames, rows, columns = asked.video.shape[-3:]
    request = Request(
        prompts=None if asked.prompt is None else asked.prompt[:count],
        labels=None if asked.label is None else tuple(asked.label[:count].tolist()),
        actions=None if asked.actions is None else tuple(map(tuple, asked.actions[:count].tolist())),
        count=count,
        frames=frames,
        size=(rows, columns),
        seed=seed,
    )
    return generate(model, request).video


def real_spread(rows: np.ndarray, captions: Sequence[str] | None) -> float:
    """The mean variance of real clips that share a caption; of all of them where too few do."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, caption in enumerate(captions or ()):
        groups[caption].append(i)
    shared = [rows[members] for members in groups.values() if len(members) > 1]
    if len(shared) < GROUPS:
        return float(rows.var(0, ddof=1).mean())
    weight = np.array([len(members) - 1 for members in shared], np.float64)
    return float(np.average([members.var(0, ddof=1).mean() for members in shared], weights=weight))


def _captions(material: Material) -> Sequence[str] | None:
    """Of the reference clips, which are the first of the split, where they can be asked for."""
    if material.dataset is None:
        return None
    return material.dataset.batch(material.split, range(len(material.reference))).prompt


@torch.no_grad()
def nearest_training(dataset: Dataset, videos: Sequence[Tensor], most: int) -> list[np.ndarray] | None:
    """For every clip of some videos the distance to the nearest of the first training clips: root mean squared
    difference of shrunk pixels. None where the training clips are of other frames or of several sizes."""
    shrunk = [_shrunk(video) for video in videos]
    found = [np.full(len(video), np.inf) for video in videos]
    length = min(most, dataset.length("train"))
    for start in range(0, length, BLOCK):
        clips = dataset.batch("train", range(start, min(start + BLOCK, length))).video
        if not isinstance(clips, Tensor) or clips.shape[1:] != videos[0].shape[1:]:
            return None
        rows = _shrunk(clips)
        for i, mine in enumerate(shrunk):
            found[i] = np.minimum(found[i], torch.cdist(mine, rows).amin(1).numpy())
    return [values / np.sqrt(shrunk[0].shape[1]) for values in found]


def _shrunk(video: Tensor) -> Tensor:
    """B C T H W as rows of pixels, frames of at most 16 x 16."""
    h, w = video.shape[-2:]
    factor = max(1, min(h, w) // SMALL)
    small = F.avg_pool3d(video.float(), (1, factor, factor)) if factor > 1 else video.float()
    return small.flatten(1).double()
