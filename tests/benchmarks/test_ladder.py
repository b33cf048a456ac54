"""The ladder of corruptions, as any extractor climbs it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mutoscope.benchmarks.evaluation import Protocol, Truth
from mutoscope.benchmarks.ladder import ORDER, blurred, climb, problems, rungs
from mutoscope.core.metric import Metric
from mutoscope.core.tower import Tower
from mutoscope.core.values import Features
from mutoscope.registry.catalog import Catalog


class Frames(Tower):
    """Looks at frames one by one: means and contrasts of colours, whatever their order."""

    name = "frames"

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        return Features(pooled=torch.cat([video.mean((2, 3, 4)), video.std((3, 4)).mean(2)], 1))


@pytest.fixture(scope="module")
def truth() -> Truth:
    part = Catalog.load().find("data", "shapes")
    assert part is not None
    data = part(frames=9, size=(16, 16), laws=("uniform",), held=384)
    return Truth.of(data, Protocol(clips=16, reference=384))  # type: ignore[arg-type]


def kernel(extractor: Tower) -> Metric:
    part = Catalog.load().find("metric", "kernel")
    assert part is not None
    return part(extractor=extractor)  # type: ignore[return-value]


def test_the_shipped_extractor_is_accepted(truth: Truth) -> None:
    part = Catalog.load().find("tower", "mutonet")
    assert part is not None
    told = climb(kernel(part()), truth, "test")  # type: ignore[arg-type]
    assert told is not None
    assert told["problems"] == []
    assert told["clips"] == 192
    assert all(told["rungs"][a] < told["rungs"][b] for a, b in ORDER)


def test_one_that_looks_at_frames_alone_is_told_so(truth: Truth) -> None:
    told = climb(kernel(Frames()), truth, "test")
    assert told is not None
    assert any("blind to motion" in problem for problem in told["problems"])


def test_what_is_no_distance_does_not_climb(truth: Truth) -> None:
    part = Catalog.load().find("metric", "precision_recall")
    assert part is not None
    assert climb(part(extractor=Frames()), truth, "test") is None  # type: ignore[arg-type]


def test_rungs_are_what_they_say(truth: Truth) -> None:
    video = truth.reference[:6]
    made = rungs(video)
    assert torch.equal(made["real"], video)
    assert 0 < (made["noise"] - video).abs().mean() < 0.07
    assert torch.equal(made["static"][:, :, 0], made["static"][:, :, -1])
    assert torch.allclose(made["shuffled"].sum(2), made["real"].sum(2), atol=1e-5)
    assert (made["mean video"][0] == made["mean video"][5]).all()
    flat = torch.full((1, 3, 2, 8, 8), 0.25)
    assert torch.allclose(blurred(flat, 1.0), flat, atol=1e-6)


def test_every_break_of_the_order_is_named() -> None:
    order = ["real", "noise", "blur", "more blur", "shuffled", "static", "mean video"]
    fine = dict(zip(order, (0.0, 0.1, 1.0, 2.0, 6.0, 9.0, 20.0), strict=True))
    assert problems(fine) == []
    assert problems({**fine, "blur": 3.0}) == ["more blur is no farther from real clips than blur"]
    assert "noise that nobody sees is taken for a difference" in problems({**fine, "noise": 0.9})
