"""What distances between sets share: features of clips, and which real clips they are held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material
from mutoscope.core.tower import Tower

TOGETHER = 64
"""Clips that an extractor looks at together."""


@dataclass(frozen=True)
class Sets:
    """Features, clips by d, float64. made: of the clips to score. base: of real clips. held: of other real clips, as
    many as `made` where there are enough, so that their distance to `base` is the floor of real against real."""

    made: np.ndarray
    base: np.ndarray
    held: np.ndarray

    @staticmethod
    def of(material: Material, extractor: Tower) -> Sets:
        """Real clips are split so that no clip stands on both sides of a distance. With fewer than twice as many real
        clips as clips to score, all are the base, and the floor is that of their halves."""
        n, m = len(material.video), len(material.reference)
        made, real = features(extractor, material.video), features(extractor, material.reference)
        if m >= 2 * n:
            return Sets(made, real[n:], real[:n])
        return Sets(made, real, real[: m // 2])

    def floor_base(self) -> np.ndarray:
        """What `held` is to be compared with: real clips that it has none of."""
        return self.base if len(self.held) == len(self.made) else self.base[len(self.held) :]


@torch.no_grad()
def features(extractor: Tower, video: Tensor) -> np.ndarray:
    """One row of features for each clip, float64: pooled, or the mean of the sequence."""
    tensor = next(iter(extractor.parameters()), None)
    device = video.device if tensor is None else tensor.device
    extractor.eval()
    rows = []
    for part in video.split(TOGETHER):
        seen = extractor.features(part.float().to(device))
        row = seen.pooled if seen.pooled is not None else None if seen.sequence is None else seen.sequence.mean(1)
        if row is None:
            raise InputError(field="extractor", problem=f"{extractor.name} gives no pooled features and no sequence")
        rows.append(row.double().cpu())
    return torch.cat(rows).numpy()


def standardised(*sets: np.ndarray, by: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sets shifted and scaled by the mean and deviation of the reference, which no arm changes."""
    mean, deviation = by.mean(0), by.std(0, ddof=1)
    scale = np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-12), deviation, 1.0)
    return tuple((x - mean) / scale for x in sets)
