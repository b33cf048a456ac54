"""The objective `perceptual_adversarial`: reconstructions that look right, and that a discriminator takes for real."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.component import Facts, Nested
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ClipFact, FieldFact
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Natural, NonNegative
from mutoscope.core.tower import Tower
from mutoscope.core.values import Conditioning, Example, Losses

LEAST, MOST = 0.0, 1e4
"""Bounds of the adaptive weight, as in released code."""


@final
class PerceptualAdversarial(Objective):
    """Pixels, a perceptual distance, a patch discriminator and the autoencoder's own terms. Esser et al. 2021, eq. 6.

    As latent diffusion trains its autoencoders (Rombach et al. 2022, app. G). The adversarial term is weighed by the
    ratio of the norms of the gradients, of reconstruction and of adversary, at the decoder's last layer (the last
    weight that the autoencoder lists); the discriminator descends the hinge loss.

    perceptual: a frozen tower. The distance is the mean over places of the squared difference of unit features; of a
    tower without places the squared difference of pooled features, as `lpips` gives them. perceptual_weight: of it.
    discriminator, adversarial: the opponent, and a factor on the adaptive weight. start: the first step at which it
    takes part. reduce: `sum` over the clip's values, as the paper's KL models, or the `mean`, as its VQ models. kl,
    commitment, codebook: weights of the autoencoder's terms, `kl` in nats per clip beside the sum, per value beside the
    mean.
    """

    name = "perceptual_adversarial"
    paper = "Esser et al. 2021, arXiv:2012.09841"
    learns = "autoencoder"
    accepts = Autoencoder

    def __init__(
        self,
        clip: ClipFact,
        *,
        perceptual: Tower = Nested("mutonet"),  # type: ignore[assignment]
        perceptual_weight: NonNegative = 1.0,
        discriminator: Discriminator = Nested("patch"),  # type: ignore[assignment]
        adversarial: NonNegative = 0.5,
        start: Natural = 50001,
        reduce: Literal["sum", "mean"] = "sum",
        kl: NonNegative = 1e-6,
        commitment: NonNegative = 1.0,
        codebook: NonNegative = 0.25,
    ) -> None:
        super().__init__()
        self.perceptual, self.discriminator = perceptual, discriminator
        self.perceptual.frozen = True  # pyright: ignore[reportArgumentType]
        self.perceptual.requires_grad_(False)
        self.perceptual_weight, self.adversarial, self.start, self.reduce = (
            perceptual_weight,
            adversarial,
            start,
            reduce,
        )
        self.weights = {"kl": kl, "commitment": commitment, "codebook": codebook}

    @classmethod
    def lend(cls, facts: Facts) -> Iterable[Any]:
        """The grids that the discriminator judges: pixels of whole clips."""
        clip = facts.get(ClipFact)
        return () if clip is None else (FieldFact(clip.channels, clip.frames, clip.size),)

    def opponents(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator}

    def turns(self, step: int) -> tuple[str, ...]:
        return ("learner", "discriminator") if step >= self.start else ("learner",)

    def loss(self, learner: Autoencoder, example: Example, draw: Draw, turn: str) -> Losses:
        video = example.batch.video
        assert isinstance(video, Tensor)
        if turn == "discriminator":
            with torch.no_grad():
                made = learner(video, draw).video.float()
            real, fake = self.judged(video), self.judged(made)
            total = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
            return Losses(total, {"real": real.detach().mean(), "fake": fake.detach().mean()})
        made = learner(video, draw)
        rebuilt, values = made.video.float(), video[0].numel()
        pixel, seen = (rebuilt - video).abs().mean(), self.distance(rebuilt, video)
        scale = values if self.reduce == "sum" else 1
        total = scale * (pixel + self.perceptual_weight * seen)
        parts = {"pixel": pixel, "perceptual": seen, **made.terms}
        if draw.step >= self.start and self.adversarial > 0:
            wants = -self.judged(rebuilt).mean()
            weight = self.adaptive(total, wants, learner)
            parts |= {"adversarial": wants, "adaptive": weight}
            total = total + self.adversarial * weight * wants
        for name, term in made.terms.items():
            share = 1 / values if name == "kl" and self.reduce == "mean" else 1.0
            total = total + self.weights.get(name, 1.0) * share * term
        return Losses(total, {name: value.detach() for name, value in parts.items()})

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The perceptual distance of two videos, mean over clips."""
        one, other = self.perceptual.features(a), self.perceptual.features(b)
        if one.sequence is not None and other.sequence is not None:
            gap = F.normalize(one.sequence, dim=-1) - F.normalize(other.sequence, dim=-1)
            return gap.square().sum(-1).mean()
        assert one.pooled is not None
        assert other.pooled is not None
        return (one.pooled - other.pooled).square().sum(-1).mean()

    def judged(self, video: Tensor) -> Tensor:
        return self.discriminator(video, Conditioning())

    def adaptive(self, rebuilds: Tensor, wants: Tensor, learner: nn.Module) -> Tensor:
        """How much the adversarial term counts beside the reconstruction: a ratio of gradients' norms."""
        last = [p for p in learner.parameters() if p.ndim >= 2 and p.requires_grad][-1]
        own = torch.autograd.grad(rebuilds, last, retain_graph=True)[0].norm()
        other = torch.autograd.grad(wants, last, retain_graph=True)[0].norm()
        return (own / (other + 1e-4)).clamp(LEAST, MOST).detach()
