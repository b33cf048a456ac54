"""The autoencoder `vqgan`: frame by frame."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, final

import torch
import torch.nn.functional as F
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
        self.encoder = nn.Sequential(
            nn.Conv2d(clip.channels, width, 3, padding=1), *_down([width, *widths], depth),
            *_middle(widths[-1]), _Norm(widths[-1]), nn.SiLU(),
            nn.Conv2d(widths[-1], code_width, 3, padding=1), nn.Conv2d(code_width, code_width, 1),
        )  # fmt: skip
        self.codebook = LearnedCodebook(codes, code_width)
        self.decoder = nn.Sequential(
            nn.Conv2d(code_width, code_width, 1), nn.Conv2d(code_width, widths[-1], 3, padding=1),
            *_middle(widths[-1]), *_up([widths[-1], *reversed(widths)], depth + 1), _Norm(width * multipliers[0]),
            nn.SiLU(), nn.Conv2d(width * multipliers[0], clip.channels, 3, padding=1),
        )  # fmt: skip

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
        return _each_frame(self.encoder, video)

    def _decoded(self, z: Tensor) -> Tensor:
        return _each_frame(self.decoder, z)


def _each_frame(layers: nn.Module, x: Tensor) -> Tensor:
    """A network of pictures over the frames of B C T H W."""
    made = layers(rearrange(x, "b c t h w -> (b t) c h w"))
    return rearrange(made, "(b t) c h w -> b c t h w", b=len(x))


class _Norm(nn.GroupNorm):
    """Groups of at least one channel, 32 where they divide the width."""

    def __init__(self, width: int) -> None:
        groups = 32 if width % 32 == 0 else next(g for g in (16, 8, 4, 2, 1) if width % g == 0)
        super().__init__(groups, width, eps=1e-6)


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1),
            _Norm(out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1),
        )  # fmt: skip
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.layers(x)


class _Attention(nn.Module):
    """Every place of a picture attends to every other, one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = _Norm(width), nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three c) h w -> three b 1 (h w) c", three=3).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(mixed, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class _Halved(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Doubled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _down(widths: list[int], depth: int) -> list[nn.Module]:
    return _levels(widths, depth, attention_at=len(widths) - 2, between=_Halved)


def _up(widths: list[int], depth: int) -> list[nn.Module]:
    return _levels(widths, depth, attention_at=0, between=_Doubled)


def _levels(widths: list[int], depth: int, attention_at: int, between: type[nn.Module]) -> list[nn.Module]:
    """Residual blocks of each resolution, with attention at one, and a change of resolution between."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        for j in range(depth):
            layers.append(_Residual(before if j == 0 else after, after))
            layers += [_Attention(after)] if i == attention_at else []
        layers += [between(after)] if i < len(widths) - 2 else []
    return layers


def _middle(width: int) -> list[nn.Module]:
    return [_Residual(width, width), _Attention(width), _Residual(width, width)]
