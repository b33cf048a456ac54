"""The metric `quadruplets`: does a model find what cannot be less likely than what can?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.model import Model
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count
from mutoscope.core.values import Batch, Example
from mutoscope.plugins.world.metrics.reading import asked, protocol
from mutoscope.plugins.world.state import Scene

SPLIT = "quadruplets"


@final
class Quadruplets(Metric):
    """Share of matched sets in which the impossible clips have the higher loss, by the model's own objective.

    Two possible clips and two impossible ones are made of the same halves: what passes behind a bar vanishes, or comes
    out with another colour or shape, or elsewhere. A set is right where the impossible pair's loss is above the
    possible pair's, under the same levels and noise; chance is one half. One score for all, one for each kind. The
    objective's loss is a likelihood, or a bound on one, or a denoising error; where it is none of these, as against
    discriminators, and in a cascade, there is no score.

    sets: matched sets. draws: of levels and noise, for each clip.
    """

    name = "quadruplets"
    wants = "model"
    paper = "after Riochet et al. 2018, arXiv:1803.07616"
    better: Literal["higher", "lower"] = "higher"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *, sets: Count = 48, draws: Count = 8) -> None:
        self.sets, self.draws = sets, draws

    def score(self, material: Material) -> Iterable[Score]:
        asked(material)
        model, dataset = material.model, material.dataset
        if not isinstance(model, Model) or dataset is None or model.objective.opponents():
            return []
        count = 4 * min(self.sets, dataset.length(SPLIT) // 4)
        batch = dataset.batch(SPLIT, range(count))
        if not isinstance(batch.video, Tensor):
            return []
        losses = np.array([self._loss(model, batch, i, material.seed) for i in range(count)])
        right: dict[str, list[float]] = defaultdict(list)
        for i in range(0, count, 4):
            scenes: tuple[Scene, ...] = batch.state[i : i + 4]  # type: ignore[index,assignment]
            possible = [losses[i + j] for j, scene in enumerate(scenes) if scene.possible]
            impossible = [losses[i + j] for j, scene in enumerate(scenes) if not scene.possible]
            gap = float(np.sum(impossible) - np.sum(possible))
            right[str(scenes[0].notes["kind"])].append(0.5 if gap == 0 else float(gap > 0))
        every = [value for values in right.values() for value in values]
        scores = [Score(self.name, np.array(every))]
        return [*scores, *(Score(f"{self.name}.{kind}", np.array(values)) for kind, values in right.items())]

    @torch.no_grad()
    def _loss(self, model: Model, batch: Batch, i: int, seed: int) -> float:
        """The mean loss of one clip; members of a set share their levels and noise."""
        numbers = tuple((i // 4) * self.draws + k for k in range(self.draws))
        draw = Draw(seed, "quadruplets", 0, numbers, model.device)
        assert isinstance(batch.video, Tensor)
        one = Batch(
            prompt=None if batch.prompt is None else (batch.prompt[i - i % 4],) * self.draws,
            label=None if batch.label is None else batch.label[i - i % 4].expand(self.draws),
            actions=None if batch.actions is None else batch.actions[i - i % 4].expand(self.draws, -1),
            clips=numbers,
        ).to(model.device)
        latents = model.autoencoder.encode(batch.video[i : i + 1].expand(self.draws, -1, -1, -1, -1).to(model.device))
        one = replace(one, latents=latents)
        example = Example(model.patchifier.patchify(latents), model.embed(one, draw), one)
        with draw.forked():
            return float(model.objective.loss(model.denoiser, example, draw, "learner").total)

    def protocol(self) -> dict[str, object]:
        return {**protocol(self.name), "sets": self.sets, "draws": self.draws}
