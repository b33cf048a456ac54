"""The autoencoder `video_decoder`: an image autoencoder whose decoder sees other frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder, PictureAutoencoder
from mutoscope.core.component import Nested
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction
from mutoscope.plugins.video_diffusion.between import After, Mixed, TimeResidual, UnderWay


@final
class VideoDecoder(Autoencoder):
    """Layers of time in the decoder of an image autoencoder. Blattmann et al. 2023, sec. 3.1.1, arXiv:2304.08818.

    Frames are coded one by one, so that latents are the image model's; decoded together they do not flicker. After
    every residual block of the decoder stands one over time, mixed in by a learned share, the identity at first. One
    frame alone is decoded as the image autoencoder does: `on_frames` trains that, and `decoder_only` then the rest.

    image: the image autoencoder.
    """

    name = "video_decoder"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"
    tiny = {"image": Nested("kl", {"channels": 4, "width": 8, "multipliers": (1, 2, 2), "depth": 1})}  # noqa: RUF012

    def __init__(self, clip: ClipFact, *, image: PictureAutoencoder = Nested("kl")) -> None:  # type: ignore[assignment]
        super().__init__()
        self.image, self.under_way = image, UnderWay()
        self.time = nn.ModuleList()
        for layer, channels in image.decoder_layers():
            mixed = Mixed(TimeResidual(channels))
            self.time.append(mixed)
            layer.register_forward_hook(After(mixed, self.under_way))

    def facts(self) -> Iterable[LatentFact]:
        return self.image.facts()

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return self.image.latent_grid(frames, size)

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return self.image.video_size(grid)

    def encode(self, video: Tensor) -> Latents:
        return self.image.encode(video)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        self.under_way.frames = latents.values.shape[2]
        return self.image.decode(latents)

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        self.under_way.frames = video.shape[2]
        return self.image(video, draw)

    def begin(self, batches: Iterable[Batch]) -> None:
        self.image.begin(batches)

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        self.image.finish(batches)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those of the image autoencoder that decoding does not use."""
        decoding = {id(p) for module in self.image.decoding() for p in module.parameters()}
        return [p for p in self.image.parameters() if id(p) not in decoding]
