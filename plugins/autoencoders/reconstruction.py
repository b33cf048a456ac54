"""The objective `reconstruction`: an autoencoder gives back what it was given."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import NonNegative
from mutoscope.core.values import Example, Losses


@final
class ReconstructionObjective(Objective):
    """A pixel error per value, and the autoencoder's terms by weight.

    pixel: `l1`, `l2`, or their sum `both`. kl: weight of the KL divergence in nats per pixel value (the term in nats
    per clip over the clip's values), Rombach et al. 2022 use about 1e-6. commitment: weight of a quantiser's term.
    """

    name = "reconstruction"
    learns = "autoencoder"
    accepts = Autoencoder

    def __init__(
        self, *, pixel: Literal["l1", "l2", "both"] = "both", kl: NonNegative = 1e-5, commitment: NonNegative = 0.25
    ) -> None:
        super().__init__()
        self.pixel, self.weights = pixel, {"kl": kl, "commitment": commitment}

    def loss(self, learner: Autoencoder, example: Example, draw: Draw, turn: str) -> Losses:
        videos = example.batch.video
        assert videos is not None
        if isinstance(videos, tuple):
            each = [self._loss(learner, v[None], draw.of(draw.clips[i : i + 1])) for i, v in enumerate(videos)]
            names = each[0][1]
            parts = {name: torch.stack([e[1][name] for e in each]).mean() for name in names}
            return Losses(torch.stack([e[0] for e in each]).mean(), parts)
        return Losses(*self._loss(learner, videos, draw))

    def _loss(self, learner: Autoencoder, video: Tensor, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        made = learner(video, draw)
        difference = made.video.float() - video
        l1, l2 = difference.abs().mean(), difference.square().mean()
        total = {"l1": l1, "l2": l2, "both": l1 + l2}[self.pixel]
        for name, term in made.terms.items():
            scale = video[0].numel() if name == "kl" else 1
            total = total + self.weights.get(name, 1.0) * term / scale
        parts = {"l1": l1, "l2": l2, **made.terms}
        return total, {name: value.detach() for name, value in parts.items()}
