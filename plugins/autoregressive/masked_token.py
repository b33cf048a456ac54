"""The `masked_token` objective."""

from __future__ import annotations

import math
from typing import Annotated, Literal, final

import torch
from annotated_types import Gt, Le
from torch import Tensor

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import Discrete, TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.process import TokenProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.autoregressive.entropy import cross_entropy, known_at, mean_where


@final
class AroundHoles(TokenProcess):
    """Any id from all that are not holes; the hole is the id after the last."""

    causal = False

    def __init__(self, codes: int) -> None:
        self.hole = codes


@final
class MaskedToken(Objective):
    """Ids hidden by holes are predicted from the rest, seen both ways; in nats per hidden id.

    cosine: of N ids ceil(cos(pi r / 2) N) are hidden, r drawn evenly in [0, 1): what a sampler that fills all of them
    in a few steps meets on its way (Chang et al. 2022, sec. 3.1, arXiv:2202.04200). fixed: each id is hidden with one
    chance, the BERT objective of Image GPT (Chen et al. 2020, sec. 2.2), which hides 0.15.

    share: that chance. smoothing: share of the target spread evenly over the codebook. Known ids are never hidden.
    """

    name = "masked_token"
    paper = "Chang et al. 2022, arXiv:2202.04200"
    accepts = TokenDenoiser

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete],
        *,
        hide: Literal["cosine", "fixed"] = "cosine",
        share: Annotated[float, Gt(0), Le(1)] = 0.15,
        smoothing: Share = 0.1,
    ) -> None:
        super().__init__()
        self.hide, self.share, self.smoothing = hide, share, smoothing
        self.process = AroundHoles(tokens.codebook or 1)

    def loss(self, learner: TokenDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        assert example.tokens is not None
        assert self.process is not None
        ids = example.tokens.filled()
        hidden = self.hidden(ids.shape[1], draw)
        if (known := known_at(example.conditioning)) is not None:
            hidden = hidden & ~known
        holed = example.tokens.with_values(ids.masked_fill(hidden, self.process.hole))  # type: ignore[attr-defined]
        logits = learner(holed, example.conditioning).values
        nats = mean_where(cross_entropy(logits, ids, self.smoothing), hidden)
        hits = mean_where((logits.detach().argmax(-1) == ids).float(), hidden)
        return Losses(nats, {"nats": nats.detach(), "accuracy": hits})

    def hidden(self, cells: int, draw: Draw) -> Tensor:
        """Which ids are hidden, K N."""
        scores = draw.uniform("hidden", cells)
        if self.hide == "fixed":
            return scores < self.share
        ratio = torch.cos(draw.uniform("ratio", 1) * (math.pi / 2))
        count = torch.ceil(ratio * cells)
        return scores.argsort(1).argsort(1) < count
