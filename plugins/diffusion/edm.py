"""The `edm` objective: a preconditioned network, trained where it matters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, final

from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import NonNegative, Positive, Share
from mutoscope.core.values import Conditioning, Example, Losses
from mutoscope.plugins.diffusion.augmentation import LABEL, augmented
from mutoscope.plugins.diffusion.errors import clip_means
from mutoscope.plugins.diffusion.karras import EdmProcess, KarrasProcess, VeProcess, VpProcess

FIRST = 1e-5
"""The smallest time of training under the variance-preserving equation."""


@final
class Edm(Objective):
    """The clean data's squared error through a preconditioned network. Karras et al. 2022, eq. 8, arXiv:2206.00364.

    precondition: the paper's own (`edm`), or the coefficients, training noise and sampling steps of Song et al.'s
    variance-preserving (`vp`) and variance-exploding (`ve`) equations as its table 1 has them; the following settings
    but `augment` are the paper's own alone. mean, std: of ln sigma in training. data: the data's deviation. smallest,
    largest: sigma of the sampling steps, spaced evenly in sigma^(1/rho). augment: probability of each of the geometric
    changes that training clips undergo, of which the network is told (app. F.2); for pictures of one pixel per token.
    """

    name = "edm"
    paper = "Karras et al. 2022, arXiv:2206.00364"
    accepts = LevelDenoiser

    def __init__(
        self,
        tokens: TokenFact,
        given: ConditioningFact,
        *,
        precondition: Literal["edm", "vp", "ve"] = "edm",
        mean: float = -1.2,
        std: NonNegative = 1.2,
        data: Positive = 0.5,
        smallest: Positive = 0.002,
        largest: Positive = 80.0,
        rho: Positive = 7.0,
        augment: Share = 0.0,
    ) -> None:
        super().__init__()
        if smallest >= largest:
            raise ValueError(f"smallest: must be less than the largest, {largest}; got {smallest}")
        if augment and (tokens.packed or tokens.patch != (1, 1, 1)):
            raise ValueError("augment: works on pictures of one cell per token, one clip per row; leave it at 0")
        self.mean, self.std, self.augment, self.given = mean, std, augment, given
        processes: dict[str, KarrasProcess] = {
            "edm": EdmProcess(data, smallest, largest, rho),
            "vp": VpProcess(),
            "ve": VeProcess(),
        }
        self.process: KarrasProcess = processes[precondition]

    def facts(self) -> Iterable[Any]:
        """The process, and what the network is told of the changes."""
        if not self.augment:
            return (self.process,)
        return self.process, replace(self.given, augmented=LABEL)

    def drawn_levels(self, draw: Draw) -> Tensor:
        """One training time per clip, K numbers."""
        process = self.process
        if isinstance(process, VpProcess):
            return FIRST + (1 - FIRST) * draw.uniform("time")
        if isinstance(process, VeProcess):
            span = math.log(process.largest / process.smallest)
            return process.time(process.smallest * (span * draw.uniform("time")).exp())
        return process.time((self.mean + self.std * draw.normal("time")).exp())

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, told = example.tokens, example.conditioning
        assert tokens is not None
        if self.augment:
            tokens, label = augmented(tokens, draw, self.augment)
            told = told.merge(Conditioning(augmented=label))
        eps, level = draw.like(tokens), self.drawn_levels(draw)
        noisy = self.process.noised(tokens, eps, level, told.known)
        clean = self.process.predict(learner, noisy, level, told).field.float()
        error = clip_means((clean - tokens.filled()).square().mean(dim=-1), tokens, told.known)
        weight = self.process.preconditioning(self.process.sigma(level)).weight
        return Losses((weight * error).mean(), {"error": error.detach().mean()})
