"""The `next_token` objective."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.objective import Objective
from mutoscope.core.process import TokenProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.autoregressive.entropy import cross_entropy, known_at, mean_where


@final
class InRasterOrder(TokenProcess):
    """Each id from those before it."""

    causal, hole = True, None


@final
class NextToken(Objective):
    """The likelihood of ids in raster order, each given those before it; in nats per id.

    Where the denoiser predicts the prompt's ids too, the two are weighed: DALL-E gives the text an eighth (Ramesh et
    al. 2021, sec. 2.2, arXiv:2102.12092). Ids that are known are not learned. Padding of prompts is not learned.

    smoothing: share of the target spread evenly over the codebook (Vaswani et al. 2017, sec. 5.4, give 0.1).
    prompt_weight: share of the prompt's likelihood in the loss.
    """

    name = "next_token"
    paper = "Brown et al. 2020, arXiv:2005.14165"
    accepts = TokenDenoiser

    def __init__(self, *, smoothing: Share = 0.0, prompt_weight: Share = 0.125) -> None:
        super().__init__()
        self.smoothing, self.prompt_weight = smoothing, prompt_weight
        self.process = InRasterOrder()

    def loss(self, learner: TokenDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        assert example.tokens is not None
        ids, told = example.tokens.filled(), example.conditioning
        logits = learner(example.tokens, told)
        known = known_at(told)
        nats = mean_where(cross_entropy(logits.values, ids, self.smoothing), None if known is None else ~known)
        hits = (logits.values.detach().argmax(-1) == ids).float().mean()
        parts: dict[str, Tensor] = {"nats": nats.detach(), "accuracy": hits}
        total = nats
        if logits.prompt is not None and told.prompt_ids is not None:
            text = mean_where(cross_entropy(logits.prompt, told.prompt_ids), told.mask)
            total = torch.lerp(nats, text, self.prompt_weight)
            parts["prompt_nats"] = text.detach()
        return Losses(total, parts)
