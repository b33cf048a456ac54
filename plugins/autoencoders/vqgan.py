"""The autoencoder `vqgan`: frame by frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, final

import torch
from annotated_types import MinLen
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Width
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction
from mutoscope.plugins.autoencoders.codebooks import LearnedCodebook, encodings, nearest
from mutoscope.plugins.autoencoders.pictures import Decoder, Encoder, each_frame


@final
class Vqgan(Autoencoder):
    """A convolutional autoencoder of single frames with a learned codebook. Esser et al. 2021, sec. 3.1,
    arXiv:2012.09841.

    What NUWA codes video with, each frame alone (Wu et al. 2022, sec. 3.2). Residual blocks at each resolution, a
    strided convolution between, attention in the middle, and the terms `codebook` and `commitment`. Adversarial and
    perceptual losses are the objective's affair. The codebook starts at encodings of training clips.

    codes, code_width: of the codebook. width: of the first layer; multipliers: of each resolution over it, the picture
    is halved between them; attention where the last one is. depth: residual blocks per resolution, one more in the
    decoder.
    """

    name = "vqgan"
    paper = "Esser et al. 2021, arXiv:2012.09841"
    tiny = {"codes": 16, "code_width": 4, "width": 8, "multipliers": (1, 1, 2), "depth": 1}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        codes: Count = 1024,
        code_width: Width = 256,
        width: Width = 128,
        multipliers: Annotated[tuple[Count, ...], MinLen(1)] = (1, 1, 2, 2, 4),
        depth: Depth = 2,
    ) -> None:
        super().__init__()
        self.clip, self.code_width = clip, code_width
        self.stride = 2 ** (len(multipliers) - 1)
        widths = [width * m for m in multipliers]
        last = len(multipliers) - 1
        self.encoder = Encoder(clip.channels, code_width, width, widths, depth, [last], True)
        self.before, self.after = nn.Conv2d(code_width, code_width, 1), nn.Conv2d(code_width, code_width, 1)
        self.codebook = LearnedCodebook(codes, code_width)
        self.decoder = Decoder(code_width, clip.channels, widths, depth, [last], True)

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        stride, codes = (1, self.stride, self.stride), len(self.codebook.vectors)
        yield LatentFact(self.code_width, stride, grid, codebook=codes, mixed=self.clip.mixed)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, -(-size[0] // self.stride), -(-size[1] // self.stride))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows * self.stride, grid.columns * self.stride

    def encode(self, video: Tensor) -> Latents:
        z = self._encoded(video)
        ids = nearest(rearrange(z, "b c t h w -> (b t h w) c"), self.codebook.vectors)
        return Latents(ids.view(len(z), *z.shape[2:]), ids=True)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return self._decoded(self.codebook.look_up(latents.values))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        quantised, _, terms = self.codebook(self._encoded(video))
        return Reconstruction(self._decoded(quantised), terms)

    def codes(self) -> Tensor:
        return self.codebook.vectors

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Sets the codebook to encodings of training clips."""
        self.codebook.start_at(encodings(self._encoded, batches))

    def _encoded(self, video: Tensor) -> Tensor:
        if any(n % self.stride for n in video.shape[3:]):
            raise ShapeError(f"vqgan codes multiples of {self.stride} x {self.stride}; got {tuple(video.shape[3:])}")
        return each_frame(lambda x: self.before(self.encoder(x)), video)

    def _decoded(self, z: Tensor) -> Tensor:
        return each_frame(lambda x: self.decoder(self.after(x)), z)
