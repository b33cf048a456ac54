"""The `binomial` sampler."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Need, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.chains import BinomialChain, bits

Bits = Need("the chain of bits of `variational` (chain: binomial)", lambda process: not process.additive)


@final
class Binomial(Sampler):
    """All steps of a chain of bits, from fair coins to data. Sohl-Dickstein et al. 2015, sec. 2.2 and table App.1.

    Known tokens are held at every step, which is the paper's perturbation by r(x) for what is seen with certainty
    (sec. 2.5).
    """

    name = "binomial"
    paper = "Sohl-Dickstein et al. 2015, arXiv:1503.03585"
    accepts = LevelDenoiser
    goes_on_from = "all"

    def __init__(self, tokens: TokenFact, process: Annotated[LevelProcess, Bits]) -> None:
        super().__init__()
        self.width, self.process = tokens.width, process

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        chain, known = self.process, conditioning.known
        assert isinstance(chain, BinomialChain)

        def held(x: Tensor) -> Tensor:
            return x if known is None else torch.where(known.where[..., None], bits(known.values), x)

        x = held(bits(draw.like(canvas, "coins", self.width)))
        for t in range(chain.steps, 0, -1):
            level = torch.full((len(canvas),), t / chain.steps, device=canvas.device)
            said = chain.predict(denoiser, canvas.with_values(x), level, conditioning)
            quantile = torch.special.ndtr(draw.at(t).like(canvas, width=self.width))
            x = held(torch.where(quantile < (1 + said.field.float()) / 2, 1.0, -1.0))
        return canvas.with_values(x)

    def calls(self, canvas: Tokens) -> int:
        return self.process.steps if isinstance(self.process, BinomialChain) else 1
