"""The metrics `precision_recall` and `diversity`: against another library, and on sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mutoscope.core.checks import checks_of
from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.metric import Material
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch, Features
from mutoscope.plugins.metrics import diversity
from mutoscope.plugins.metrics.diversity import Diversity, nearest_training, real_spread
from mutoscope.plugins.metrics.precision_recall import PrecisionRecall, among


class Means(Tower):
    """Two numbers of a clip: the means of its first two channels."""

    name = "means"

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        return Features(pooled=video[:, :2].mean(dim=(2, 3, 4)))


def clips(n: int, seed: int = 0, spread: float = 0.3, shift: float = 0.0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    level = spread * torch.randn(n, 3, 1, 1, 1, generator=made) + shift
    return (level + 0.02 * torch.randn(n, 3, 2, 8, 8, generator=made)).clamp(-1, 1)


def scores(metric: PrecisionRecall | Diversity, video: Tensor, reference: Tensor, **more) -> dict[str, float]:
    real = Batch(video=reference[: len(video)], clips=tuple(range(len(video))))
    return {s.name: float(np.mean(s.clips)) for s in metric.score(Material(video, real, reference, "test", **more))}


@pytest.mark.parametrize("k", [1, 3, 5])
def test_it_is_torch_fidelitys(k: int) -> None:
    """The library's own numbers on the same features."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_prc import prc_features_to_metric

    rng = np.random.default_rng(k)
    made, real = rng.normal(size=(150, 5)), rng.normal(0.4, 1.2, size=(130, 5))
    there = prc_features_to_metric(
        torch.tensor(made), torch.tensor(real), prc_neighborhood=k, prc_batch_size=50, verbose=False
    )
    assert among(made, real, k).mean() == pytest.approx(there["precision"], abs=1e-6)
    assert among(real, made, k).mean() == pytest.approx(there["recall"], abs=1e-6)


def test_a_mode_dropped_costs_recall_and_rubbish_costs_precision() -> None:
    real = torch.cat([clips(60, 1, 0.05, -0.5), clips(60, 2, 0.05, 0.5)])[
        torch.randperm(120, generator=torch.Generator().manual_seed(0))
    ]
    metric = PrecisionRecall(extractor=Means())
    both = scores(metric, real[:40], real)
    one = scores(metric, clips(40, 3, 0.05, 0.5), real)
    rubbish = scores(metric, torch.cat([real[:20], clips(20, 4, 0.9, 0.0)]), real)
    assert both["precision_recall.precision"] > 0.8
    assert both["precision_recall.recall"] > 0.8
    assert one["precision_recall.recall"] < 0.6 < one["precision_recall.precision"]
    assert rubbish["precision_recall.precision"] < both["precision_recall.precision"] - 0.2
    with pytest.raises(InputError, match="more than 3 clips"):
        scores(metric, real[:3], real)


class Known(Dataset):
    """Training clips that are given."""

    name = "known"

    def __init__(self, train: Tensor, test: Tensor) -> None:
        self.train, self.test = train, test

    def facts(self):
        return [ClipFact(3, 2, (8, 8))]

    def length(self, split: str) -> int:
        return len(self.train if split == "train" else self.test)

    def batch(self, split, indices, epoch=0) -> Batch:
        video = (self.train if split == "train" else self.test)[list(indices)]
        return Batch(video=video, prompt=("a", "b") * (len(video) // 2), clips=tuple(indices))


def test_copies_of_training_clips_are_found() -> None:
    """Of fresh clips 5% count, by the measure's own making; of training clips with a little noise all do."""
    train, test = clips(200, 1), clips(100, 2)
    dataset, metric = Known(train, test), Diversity(extractor=Means())
    copies = (train[:50] + 0.003 * torch.randn(50, 3, 2, 8, 8, generator=torch.Generator().manual_seed(5))).clamp(-1, 1)
    assert scores(metric, test[:100], test, dataset=dataset)["diversity.copying"] == pytest.approx(0.05)
    assert scores(metric, clips(100, 9), test, dataset=dataset)["diversity.copying"] < 0.15
    assert scores(metric, copies, test, dataset=dataset)["diversity.copying"] == 1.0
    assert metric.better_of("diversity.copying") == "lower"
    nearest = nearest_training(dataset, [train[:3]], 100)
    assert nearest is not None and float(nearest[0].max()) < 1e-6
    assert nearest_training(dataset, [torch.zeros(2, 3, 4, 8, 8)], 100) is None


@pytest.mark.parametrize(("spread", "least", "most"), [(0.0, 0.0, 0.05), (0.3, 0.6, 1.6)])
def test_spread_is_that_of_real_clips(monkeypatch, spread: float, least: float, most: float) -> None:
    """A generator that answers a prompt with one clip, and one that draws as the data does."""
    test = clips(128, 2)
    monkeypatch.setattr(diversity, "again", lambda model, asked, count, seed: clips(count, seed, spread))
    told = scores(Diversity(extractor=Means()), test[:64], test, dataset=Known(clips(64, 1), test), model=object())
    assert least <= told["diversity.spread"] <= most


def test_spread_under_a_caption_is_within_its_clips() -> None:
    rng = np.random.default_rng(0)
    captions = [str(i // 2) for i in range(400)]
    rows = np.repeat(rng.normal(0, 3, size=(200, 2)), 2, axis=0) + rng.normal(0, 1, size=(400, 2))
    assert real_spread(rows, captions) == pytest.approx(1.0, abs=0.15)
    assert real_spread(rows, None) > 6
    assert real_spread(rows[:8], captions[:8]) == pytest.approx(rows[:8].var(0, ddof=1).mean())


@pytest.mark.parametrize("part", [PrecisionRecall, Diversity], ids=lambda p: p.name)
def test_they_keep_the_contract(part) -> None:
    for check in checks_of(part):
        check.run()
