"""The autoencoder role: video to latents and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.facts import LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction


class Autoencoder(Component, nn.Module, ABC):
    """Compresses video in space, and where it can in time; owns the scale of its latents.

    `encode` gives latents of about zero mean and, over all channels, unit variance, or ids; `decode` takes the same. Neither
    is random. An image is a video of one frame.
    """

    role: ClassVar[str] = "autoencoder"
    entries: ClassVar[tuple[str, ...]] = ("forward", "encode", "decode")

    @abstractmethod
    def encode(self, video: Tensor) -> Latents:
        """B C T H W in [-1, 1] to latents. Raises ShapeError on a size that `latent_grid` does not give exactly."""

    @abstractmethod
    def decode(self, latents: Latents) -> Tensor:
        """Latents of one size to video, B C T H W in [-1, 1], of the size `video_size` says."""

    @abstractmethod
    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        """The smallest latent grid that covers a video of so many frames, rows and columns."""

    @abstractmethod
    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        """Frames, rows and columns of the video that a latent grid decodes to."""

    @abstractmethod
    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        """The training pass: the reconstruction, and the terms an objective may weigh (`kl`, `commitment`, ...)."""

    @abstractmethod
    def facts(self) -> Iterable[LatentFact]:
        """One LatentFact."""

    def codes(self) -> Tensor | None:
        """The vectors of a codebook, codes x width; None for continuous latents and codes without vectors."""
        return None

    def begin(self, batches: Iterable[Batch]) -> None:
        """Called once before its phase with a few training batches: data-dependent initialisation."""

    def finish(self, batches: Iterable[Batch]) -> None:
        """Called once after its phase with a few training batches: measures the scale of the latents."""

    def covers(self, frames: int, size: tuple[int, int]) -> bool:
        """Whether a video of this size is coded without padding or trimming."""
        return self.video_size(self.latent_grid(frames, size)) == (frames, *size)


class PictureAutoencoder(Autoencoder):
    """An autoencoder to which every frame is a picture of its own, with a decoder in layers between which others may be
    put."""

    @abstractmethod
    def decoding(self) -> list[nn.Module]:
        """The modules that `decode` uses, all of them."""

    @abstractmethod
    def decoder_layers(self) -> list[tuple[nn.Module, int]]:
        """Layers of the decoder over pictures B C H W after which frames may meet, in the order of the pass, and the
        channels that each gives."""
