"""Clips of the world, drawn once for all tests of it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from mutoscope.core.metric import Material, Metric
from mutoscope.core.values import Batch
from mutoscope.plugins.world.dataset import Shapes

TIERS = {"XS": (9, (16, 16)), "S": (17, (32, 32))}
CLIPS = 300


class Clips:
    """The first clips of a split of a world, by tier, and what metrics make of them; kept."""

    @cache  # noqa: B019
    def world(self, tier: str = "XS", **settings) -> Shapes:
        frames, size = TIERS[tier]
        return Shapes(frames=frames, size=size, **settings)

    @cache  # noqa: B019
    def batch(self, tier: str = "XS", count: int = CLIPS, split: str = "test", **settings) -> Batch:
        return self.world(tier, **settings).batch(split, range(count))

    def scores(self, metric: Metric, batch: Batch, video: Tensor | None = None) -> dict[str, float]:
        """Means over clips, by the last part of the name."""
        video = batch.video if video is None else video
        assert isinstance(video, Tensor)
        said = metric.score(Material(video, batch, video, "test"))
        return {s.name.rpartition(".")[2]: float(s.clips.mean()) for s in said if s.clips is not None}


@pytest.fixture(scope="session")
def clips() -> Clips:
    return Clips()


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield
