"""The autoencoder `vq`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, final

import torch
from annotated_types import MinLen
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Natural, Width
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction
from mutoscope.plugins.autoencoders.codebooks import LearnedCodebook, encodings, nearest
from mutoscope.plugins.autoencoders.pictures import Decoder, Encoder, each_frame


@final
class Vq(Autoencoder):
    """Latent diffusion's autoencoder with a codebook, each frame alone. Rombach et al. 2022, sec. 3.1.

    The quantiser belongs to the decoder: `encode` gives latents before it, and `decode` rounds what it is given to the
    codebook, so that a diffusion model works on continuous latents (`latents: before`). With `latents: ids` it gives
    the ids instead. Terms `codebook` and `commitment`.

    channels: of the latents and of a code. codes: their number. start: codes at first, spread evenly over a tiny cube
    as in the paper's code, or taken from encodings of training clips. rescale: divide latents by their deviation, which
    `finish` measures; the paper does not. width, multipliers, depth, attend, middle: as in `kl`.
    """

    name = "vq"
    paper = "Rombach et al. 2022, arXiv:2112.10752"
    tiny = {"channels": 4, "codes": 16, "width": 8, "multipliers": (1, 2, 2), "depth": 1}  # noqa: RUF012

    scale: Tensor

    def __init__(
        self,
        clip: ClipFact,
        *,
        channels: Width = 3,
        codes: Count = 8192,
        latents: Literal["before", "ids"] = "before",
        start: Literal["cube", "data"] = "data",
        rescale: bool = True,
        width: Width = 128,
        multipliers: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2, 4),
        depth: Depth = 2,
        attend: tuple[Natural, ...] = (),
        middle: bool = True,
    ) -> None:
        super().__init__()
        self.clip, self.channels, self.stride = clip, channels, 2 ** (len(multipliers) - 1)
        self.ids, self.start, self.rescale = latents == "ids", start, rescale
        widths = [width * m for m in multipliers]
        self.encoder = Encoder(clip.channels, channels, width, widths, depth, attend, middle)
        self.before = nn.Conv2d(channels, channels, 1)
        self.codebook = LearnedCodebook(codes, channels)
        self.after = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(channels, clip.channels, widths, depth, attend, middle)
        self.register_buffer("scale", torch.ones(()))

    def facts(self) -> Iterable[LatentFact]:
        grid, codes = self.latent_grid(self.clip.frames, self.clip.size), len(self.codebook.vectors)
        stride = (1, self.stride, self.stride)
        yield LatentFact(self.channels, stride, grid, codebook=codes if self.ids else None, mixed=self.clip.mixed)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, -(-size[0] // self.stride), -(-size[1] // self.stride))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows * self.stride, grid.columns * self.stride

    def encode(self, video: Tensor) -> Latents:
        z = self._encoded(video)
        return Latents(self._nearest(z), ids=True) if self.ids else Latents(z / self.scale)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        ids = latents.values if latents.ids else self._nearest(latents.values * self.scale)
        return self._decoded(self.codebook.look_up(ids))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        quantised, _, terms = self.codebook(self._encoded(video))
        return Reconstruction(self._decoded(quantised), terms)

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Sets the codebook to encodings of training clips, where it starts there."""
        if self.start == "data":
            self.codebook.start_at(encodings(self._encoded, batches))

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Measures the deviation of all latents together over training clips."""
        if self.rescale and not self.ids:
            self.scale.copy_(encodings(self._encoded, batches).std().clamp(min=1e-6))

    def _nearest(self, z: Tensor) -> Tensor:
        ids = nearest(rearrange(z, "b c t h w -> (b t h w) c"), self.codebook.vectors)
        return ids.view(len(z), *z.shape[2:])

    def _encoded(self, video: Tensor) -> Tensor:
        if any(n % self.stride for n in video.shape[3:]):
            raise ShapeError(f"vq codes multiples of {self.stride} x {self.stride}; got {tuple(video.shape[3:])}")
        return each_frame(lambda x: self.before(self.encoder(x)), video)

    def _decoded(self, z: Tensor) -> Tensor:
        return each_frame(lambda x: self.decoder(self.after(x)), z)
