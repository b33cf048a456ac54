"""The metric role: numbers about generated clips, each with what is needed to put an interval on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from torch import Tensor

from mutoscope.core.component import Component
from mutoscope.core.values import Batch

if TYPE_CHECKING:
    from mutoscope.core.dataset import Dataset
    from mutoscope.core.model import Cascade, Model


@dataclass(frozen=True)
class Material:
    """What a metric looks at.

    video: the clips to score, B C T H W in [-1, 1], on the CPU. real: the clips whose captions, labels, actions were
    asked for, with their video and ground truth, one for each. reference: more real clips of the split, for
    distances between sets; `real` where there are none. frames per second are the data's. model: what made the clips,
    for metrics that ask it for more or look at its loss; None where no model of ours did. dataset: where the real clips
    are from, for metrics that hold clips against those of training. seed: of the noise that the clips were made from.
    """

    video: Tensor
    real: Batch
    reference: Tensor
    split: str
    model: Model | Cascade | None = None
    dataset: Dataset | None = None
    seed: int = 0


@dataclass(frozen=True)
class Score:
    """One number, `caption.colour`.

    clips: one number per clip (float64, in order), from which value and interval follow; None for a distance between
    sets, whose `value`, `low`, `high`, `n` the metric gives itself. reliable: false where n is too small. parts: of a
    distance, one number per clip whose mean is the value, so that sets made of the same requests differ in pairs.
    """

    name: str
    clips: np.ndarray | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reliable: bool = True
    parts: np.ndarray | None = None


class Metric(Component, ABC):
    """Scores clips. A clip that cannot be read counts as wrong; it is never dropped.

    wants: `video` scores generated video against what was asked for; `reconstruction` scores the autoencoder's round
    trip of the real clips; `model` asks the model itself, and is left out where there is none. A metric of videos may
    give further scores where there is a model. better: which way is good.
    """

    role: ClassVar[str] = "metric"
    wants: ClassVar[Literal["video", "reconstruction", "model"]] = "video"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    @abstractmethod
    def score(self, material: Material) -> Iterable[Score]:
        """Scores by dotted name, each starting with the metric's own name."""

    def better_of(self, score: str) -> Literal["higher", "lower"]:
        """Which way is good for one of its scores; by default the same for all."""
        return self.better

    def protocol(self) -> dict[str, object]:
        """What makes its numbers comparable, JSON-able: extractor hash, resize, degrees of freedom, ..."""
        return {"metric": self.name}
