"""The denoiser role: what turns noise, at some level, into data.

Families differ in how much noise one call removes. That is a capability: an abstract class under Denoiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Logits, Tokens


class Denoiser(Component, nn.Module, ABC):
    """The network that every family learns. Returns raw tensors; what they mean is the process's affair."""

    role: ClassVar[str] = "denoiser"
    uses_known: ClassVar[bool] = False
    """Whether clean tokens at known places (`conditioning.known`) are used."""
    known_at: ClassVar[tuple[str, ...]] = ()
    """The places, of `core.showing.PLACES`, at which it uses them; any where empty."""


class LevelDenoiser(Denoiser):
    """Removes noise from one level: diffusion and flow."""

    @abstractmethod
    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """Raw values per token, B N output_width.

        tokens: noisy values B N D. level: K numbers in the process's coordinate (thousandths of the way to noise,
        unless the process says otherwise).
        """

    if TYPE_CHECKING:
        __call__ = forward


class RecallingDenoiser(LevelDenoiser):
    """A level denoiser that takes as many values per token as `process.input_width` says: noisy ones, and beside them
    its previous estimate where the process shows it that."""


class PictureLayer(NamedTuple):
    """A layer of a network of pictures, called with pictures B C H W, and then, where it is one of residual blocks, a
    vector of what is told, B told, else a context B L D and its mask B 1 1 L.

    channels: of the pictures that it gives. stride: how often the first pictures' rows are halved there. told: width of
    that vector; 0 for a layer whose places attend.
    """

    module: nn.Module
    channels: int
    stride: int
    told: int


class PictureDenoiser(LevelDenoiser):
    """A level denoiser to which every frame is a picture of its own, in layers between which others may be put."""

    @abstractmethod
    def layers(self) -> list[PictureLayer]:
        """Its layers after which frames may meet, in the order of the pass."""


class TokenDenoiser(Denoiser):
    """Fills in ids: autoregressive and masked."""

    @abstractmethod
    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Any | None = None) -> Logits:
        """Logits B N V, where logits[:, n] is the distribution of id n whatever the order; never shifted by one.

        With a cache (from `new_cache`), tokens hold the ids decided so far; only the next logits are returned, B 1 V.
        """

    def new_cache(self, canvas: Tokens) -> Any | None:
        """An empty cache for a causal rollout over `canvas`, or None where the network has none."""
        return None

    def cache_bytes(self, canvas: Tokens) -> int:
        """Bytes of that cache when the rollout is done, in float32; 0 where there is none."""
        return 0

    def adopt(self, codes: Tensor) -> None:
        """Called once before its phase with the autoencoder's codebook, codes x width, where that has vectors."""

    if TYPE_CHECKING:
        __call__ = forward


class OneStepDenoiser(Denoiser):
    """Removes all noise in one call: the generators of adversarial training."""

    @abstractmethod
    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        """The noise it starts from, by name (`content`, `motion`, ...), first axis K."""

    @abstractmethod
    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        """The sample, B N D."""

    def explained(
        self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The sample, and scalars by name that an objective may weigh (`mask`, ...); none by default.

        A part that gives some lists `explained` among its entries.
        """
        return self(noise, canvas, conditioning), {}

    if TYPE_CHECKING:
        __call__ = forward


class FrameDenoiser(Denoiser):
    """Predicts the next frame from those before it: recurrent.

    reads: frames that it takes in before it predicts any; what it gives for those is not meant.
    """

    reads: int = 0

    @abstractmethod
    def begin(self, canvas: Tokens, conditioning: Conditioning) -> Any:
        """The state before the first frame."""

    @abstractmethod
    def forward(self, frame: Tensor | None, state: Any, t: int, conditioning: Conditioning) -> tuple[Tensor, Any]:
        """Raw output for frame t, B N output_width, and the next state. frame: t - 1's tokens B N D, None at the start
        and where it is to go on without looking."""

    def recalled(self, state: Any, conditioning: Conditioning) -> dict[int, Tensor]:
        """Raw outputs for frames that it has read, by number, remade from its state; none by default.

        A part that gives some lists `recalled` among its entries.
        """
        return {}

    if TYPE_CHECKING:
        __call__ = forward
