"""The `agreeing` sampler: of a few drawn embeddings the one that goes best with the text."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, final

import torch
import torch.nn.functional as F

from mutoscope.core.component import Nested
from mutoscope.core.denoiser import Denoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, Continuous, Need, Pooled, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Count
from mutoscope.core.values import Conditioning, Tokens

OneToken = Need("clips of one token", lambda fact: fact.grid.cells == 1)


def check_one_space(tokens: TokenFact, given: ConditioningFact) -> None:
    """Raises ValueError where tokens and text embeddings cannot be of one space."""
    if tokens.grid.cells == 1 and given.pooled not in (0, tokens.width):  # either is refused by its own need
        raise ValueError(f"the text embedding has {given.pooled} numbers, a token {tokens.width}: not of one space")


@final
class Agreeing(Sampler):
    """Draws several image embeddings and keeps the one with the largest cosine to the text embedding.

    Ramesh et al. 2022, sec. 2.2, which draws two. The text embedding is the pooled vector that the model is told, of
    the same space; a clip is one token.

    draws: embeddings for each one asked for. sampler: draws them. Raises ValueError where a token is not of the text
    embedding's width.
    """

    name = "agreeing"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    accepts = Denoiser
    tiny: ClassVar[dict[str, Any]] = {"sampler": Nested("ancestral", {"steps": 2})}

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, OneToken],
        given: Annotated[ConditioningFact, Pooled],
        *,
        draws: Count = 2,
        sampler: Sampler = Nested("ancestral", {"steps": 64}),  # type: ignore[assignment]
    ) -> None:
        super().__init__()
        check_one_space(tokens, given)
        self.draws, self.sampler = draws, sampler

    def sample(self, denoiser: Denoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        """Raises InputError where clips and text are of different spaces."""
        text = conditioning.pooled
        best = self.sampler.sample(denoiser, canvas, conditioning, draw.at(0))
        if text is None or best.filled().shape[1:] != (1, text.shape[-1]):
            raise InputError(field="sampler", problem="agreeing compares a clip of one token with its text's embedding")
        found = best.filled()
        for i in range(1, self.draws):
            other = self.sampler.sample(denoiser, canvas, conditioning, draw.at(i)).filled()
            gains = F.cosine_similarity(other[:, 0], text, dim=-1) > F.cosine_similarity(found[:, 0], text, dim=-1)
            found = torch.where(gains[:, None, None], other, found)
        return canvas.with_values(found)

    def calls(self, canvas: Tokens) -> int:
        return self.draws * self.sampler.calls(canvas)
