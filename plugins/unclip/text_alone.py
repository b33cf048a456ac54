"""The `text_alone` sampler: no prior at all."""

from __future__ import annotations

from typing import Annotated, final

from mutoscope.core.denoiser import Denoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, Continuous, Pooled, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.unclip.agreeing import OneToken, check_one_space


@final
class TextAlone(Sampler):
    """Gives the text embedding in place of an image embedding: what a prior has to beat. Ramesh et al. 2022, sec. 5.1
    and fig. 8. The denoiser is not asked.

    Raises ValueError where a token is not of the text embedding's width.
    """

    name = "text_alone"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    accepts = Denoiser

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, OneToken],
        given: Annotated[ConditioningFact, Pooled],
    ) -> None:
        super().__init__()
        check_one_space(tokens, given)

    def sample(self, denoiser: Denoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        """Raises InputError where the model is told no text embedding."""
        if conditioning.pooled is None:
            raise InputError(field="sampler", problem="text_alone needs a text embedding")
        return canvas.with_values(conditioning.pooled[:, None])

    def calls(self, canvas: Tokens) -> int:
        return 0
