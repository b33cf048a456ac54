"""The denoiser and the objective `prior`: an autoencoder that generates by itself."""

from __future__ import annotations

import math
from typing import Annotated, final

from torch import Tensor

from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.facts import Continuous, Regular, TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.process import OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Example, Losses, Tokens


@final
class Prior(OneStepDenoiser):
    """Latents drawn from N(0, I), as a variational autoencoder is decoded from. Kingma & Welling 2014, sec. 3.

    Nothing is learned; an autoencoder trained by `elbo` makes its latents such.
    """

    name = "prior"
    paper = "Kingma & Welling 2014, arXiv:1312.6114"

    def __init__(self, tokens: Annotated[TokenFact, Continuous, Regular], process: OneStepProcess) -> None:
        super().__init__()
        self.width = tokens.width

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        return {"latents": draw.normal("latents", canvas.grids[0].cells, self.width)}

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        return noise["latents"]


@final
class PriorObjective(Objective):
    """How likely latents are under N(0, I): it says that generating is one step, and has nothing to teach."""

    name = "prior"
    paper = "Kingma & Welling 2014, arXiv:1312.6114"
    accepts = Prior

    def __init__(self) -> None:
        super().__init__()
        self.process = OneStepProcess()

    def loss(self, learner: Prior, example: Example, draw: Draw, turn: str) -> Losses:
        """Nats per value of the latents."""
        assert example.tokens is not None
        nats = 0.5 * (example.tokens.filled().float().square() + math.log(2 * math.pi)).mean()
        return Losses(nats, {"nats": nats.detach()})
