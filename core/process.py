"""Processes: what a network's raw output means. The objective gives one; denoiser and sampler are wired to the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from mutoscope.core.facts import TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Kind, Known, Prediction, Tokens

if TYPE_CHECKING:
    from mutoscope.core.denoiser import LevelDenoiser


class Process(ABC):  # noqa: B024  a mark
    """The agreement between objective, denoiser and sampler; each family of denoisers has its own."""


class LevelProcess(Process):
    """Noise added by level: x = a(t) x0 + s(t) eps, with time t from 0 (data) to 1 (noise).

    kind: what the network is asked for. additive: noise is added as above; other chains have their own sampler.
    Implementations give the coefficients and, where the network is
    preconditioned or learns a variance, their own `output_width` and `predict`.
    """

    kind: Kind
    additive: ClassVar[bool] = True

    @abstractmethod
    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Signal a and noise s at times `level` (any shape, in [0, 1]), float32."""

    def coordinate(self, level: Tensor) -> Tensor:
        """What the network is told of the level; by default the time in thousandths, as diffusion steps count."""
        return level * 1000.0

    def levels(self, steps: int) -> Tensor:
        """Times of a sampler with so many steps, from 1 down to 0: steps + 1 numbers, float64."""
        return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)

    def input_width(self, tokens: TokenFact) -> int:
        """Values per token that the network is given: more than the token's own where it is also shown its previous
        estimate, which only a `RecallingDenoiser` takes."""
        return tokens.width

    def output_width(self, tokens: TokenFact) -> int:
        """Raw values per token that the network must give."""
        return tokens.width

    def noised(self, tokens: Tokens, noise: Tensor, level: Tensor, known: Known | None = None) -> Tokens:
        """The tokens at times `level` (K numbers): a x0 + s eps, clean where known."""
        a, s = self.per_token(tokens, level)
        values = a * tokens.filled() + s * noise
        if known is not None:
            values = torch.where(known.where[..., None], known.values, values)
        return tokens.with_values(values)

    def predict(
        self,
        denoiser: LevelDenoiser,
        noisy: Tokens,
        level: Tensor,
        conditioning: Conditioning,
        previous: Prediction | None = None,
    ) -> Prediction:
        """One network call at times `level` (K numbers). previous: the last prediction, for self-conditioning."""
        raw = denoiser(noisy, self.coordinate(level), conditioning)
        return self.prediction(raw, noisy, level)

    def prediction(self, raw: Tensor, noisy: Tokens, level: Tensor) -> Prediction:
        """The raw output as a prediction of this process's kind."""
        a, s = self.per_token(noisy, level)
        return Prediction(raw, self.kind, noisy.filled(), a, s)

    def per_token(self, tokens: Tokens, level: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise of each token, broadcastable against B N D."""
        a, s = self.coefficients(level)
        return tokens.per_token(a)[..., None], tokens.per_token(s)[..., None]


class TokenProcess(Process):
    """Ids predicted from ids.

    causal: id n is predicted from the ids before it, in raster order; else from whatever is not a hole.
    hole: an extra id that stands for "not known yet" (the codebook's size), or None where there is none.
    """

    causal: bool
    hole: int | None


class FrameProcess(Process):
    """The distribution of the next frame of latents, given a network's raw output."""

    @abstractmethod
    def output_width(self, tokens: TokenFact) -> int:
        """Raw values per token that the network must give."""

    @abstractmethod
    def nll(self, raw: Tensor, frame: Tensor) -> Tensor:
        """Negative log-likelihood of `frame` (B N D), summed over a frame: B numbers, in nats."""

    @abstractmethod
    def sample(self, raw: Tensor, draw: Draw, temperature: float) -> Tensor:
        """A frame B N D drawn at a temperature; 0 gives the mode."""


class OneStepProcess(Process):
    """The network's output is the sample itself."""
