"""The objective `elbo`: an autoencoder's variational bound."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import NonNegative, Positive
from mutoscope.core.values import Example, Losses


@final
class Elbo(Objective):
    """-log p(x | z) plus the divergence of the posterior from the prior, in nats per clip. Kingma & Welling 2014.

    The likelihood is the decoder's own where it gives one (`nll`), else a Gaussian around the reconstruction. What is
    descended is the bound per pixel value, so that learning rates do not depend on the size of clips.

    spread: deviation of that Gaussian. beta: weight of the divergence; 1 is the bound (Higgins et al. 2017 raise it).
    """

    name = "elbo"
    paper = "Kingma & Welling 2014, arXiv:1312.6114"
    learns = "autoencoder"
    accepts = Autoencoder

    def __init__(self, *, spread: Positive = 0.1, beta: NonNegative = 1.0) -> None:
        super().__init__()
        self.spread, self.beta = spread, beta

    def loss(self, learner: Autoencoder, example: Example, draw: Draw, turn: str) -> Losses:
        videos = example.batch.video
        assert videos is not None
        if isinstance(videos, torch.Tensor):
            return self._loss(learner, videos, draw)
        each = [self._loss(learner, v[None], draw.of(draw.clips[i : i + 1])) for i, v in enumerate(videos)]
        parts = {name: torch.stack([e.parts[name] for e in each]).mean() for name in each[0].parts}
        return Losses(torch.stack([e.total for e in each]).mean(), parts)

    def _loss(self, learner: Autoencoder, video: Tensor, draw: Draw) -> Losses:
        made, values = learner(video, draw), video[0].numel()
        terms = dict(made.terms)
        nll = terms.pop("nll", None)
        if nll is None:
            error = (made.video.float() - video).square().flatten(1).sum(1).mean() / (2 * self.spread**2)
            nll = error + values * math.log(self.spread * math.sqrt(2 * math.pi))
        kl = terms.pop("kl", nll.new_zeros(()))
        bound = nll + self.beta * kl
        total = (bound / values) + sum(terms.values())
        return Losses(total, {"bound": bound.detach(), "nll": nll.detach(), "kl": kl.detach()})
