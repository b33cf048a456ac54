"""The `variational` objective: the bound on the likelihood of a diffusion chain."""

from __future__ import annotations

import math
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.diffusion.chains import BinomialChain, BoundedChain, GaussianChain
from mutoscope.plugins.diffusion.errors import clip_means

FLATTEST = 1e-6
"""How near to 0 and to 1 a learned rate may come."""


@final
class Variational(Objective):
    """-K, the negative bound on the log likelihood, in bits per value. Sohl-Dickstein et al. 2015, eq. 14.

    One of the steps 2 ... T is drawn per clip and stands for all of them; the first is not learned. The entropies at
    both ends are part of the loss, as rates that are learned move them (sec. 2.4.1): noise is frozen then, and the
    gradient goes through what it makes of the data.

    chain: `gaussian`, whose rates start at 1 / (T - t + 2) but the first, which stays at `first`; or `binomial`, for
    bits, with rates of 1 / (T - t + 1). steps: T. learned: whether the Gaussian rates are learned. step: what the network's output is to a Gaussian step
    back; `code` is as released, `paper` as printed, which asks for outputs of 1 / sqrt(beta).
    """

    name = "variational"
    paper = "Sohl-Dickstein et al. 2015, arXiv:1503.03585"
    accepts = LevelDenoiser

    def __init__(
        self,
        *,
        chain: Literal["gaussian", "binomial"] = "gaussian",
        steps: Annotated[int, Ge(2)] = 1000,
        first: Annotated[float, Gt(0.0), Lt(1.0)] = 1e-3,
        learned: bool = False,
        step: Literal["code", "paper"] = "code",
    ) -> None:
        super().__init__()
        if learned and chain == "binomial":
            raise ValueError("learned: the rates of a binomial chain are fixed, as noise on bits has no gradient")
        self.steps, self.first = steps, first
        self.rates = (
            nn.Parameter(_logit(1.0 / torch.arange(steps, 1, -1, dtype=torch.float64)).float()) if learned else None
        )
        with torch.device("cpu"):
            self.fixed = 1.0 / torch.arange(steps, 1, -1, dtype=torch.float64)
        self.process: BoundedChain = (
            BinomialChain(steps) if chain == "binomial" else GaussianChain(steps, self.beta, step == "code")
        )

    def beta(self) -> Tensor:
        """beta_1 ... beta_T of the Gaussian chain, float64; on the meta device as they start."""
        rest = self.fixed if self.rates is None or self.rates.is_meta else torch.sigmoid(self.rates.double())
        rest = rest.clamp(FLATTEST, 1 - FLATTEST)
        return torch.cat([rest.new_full((1,), self.first), rest])

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, told, process = example.tokens, example.conditioning, self.process
        assert tokens is not None
        t = (draw.uniform("time") * (self.steps - 1)).long() + 2
        level = t / self.steps
        noisy = process.noised(tokens, draw.like(tokens), level, told.known)
        said = process.predict(learner, noisy, level, told)
        nats = clip_means(process.term(said, tokens, t).mean(dim=-1), tokens, told.known).mean()
        ends = process.ends().float().to(nats.device)
        bits = ((self.steps - 1) * nats + ends) / math.log(2.0)
        return Losses(bits, {"bits": bits.detach(), "divergence": nats.detach()})


def _logit(p: Tensor) -> Tensor:
    return p.log() - torch.log1p(-p)
