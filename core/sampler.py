"""The sampler role: from an empty canvas to tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.denoiser import Denoiser
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Tokens


class Sampler(Component, nn.Module, ABC):
    """Draws tokens with a denoiser. Its process comes from the objective, by the constructor.

    accepts: the capability it needs of the denoiser, checked at assembly.
    """

    role: ClassVar[str] = "sampler"
    accepts: ClassVar[type] = Denoiser
    uses_source: ClassVar[bool] = False
    """Whether it edits the values that a canvas comes with."""
    goes_on_from: Literal["told", "earlier", "all"] = "told"
    """The known tokens that it goes on from: those that the network has learned to be told of; any that come before
    what it makes; or all, whatever the network has learned."""
    candidates: int = 1
    """Clips sampled for each one asked for; the verb keeps the one that `scores` likes best."""

    @abstractmethod
    def sample(self, denoiser: Any, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        """The canvas with values. Runs without gradients where the caller says so; draws only from `draw`."""

    @abstractmethod
    def calls(self, canvas: Tokens) -> int:
        """Network calls per clip, both halves of a guided call counted; of all candidates."""

    def caches(self) -> int:
        """Caches of a denoiser that it keeps at a time: 0 where it has no use for one."""
        return 0

    def scores(self, video: Tensor, batch: Batch) -> Tensor:
        """How well each decoded clip, B C T H W, answers what was asked: B numbers. Asked for where candidates are
        more than one."""
        raise NotImplementedError(f"{type(self).__name__} does not choose among candidates")
