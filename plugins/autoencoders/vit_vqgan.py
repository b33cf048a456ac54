"""The autoencoder `vit_vqgan`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.layers.attention import SelfAttention
from mutoscope.core.layers.embeddings import sincos_plane
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Heads, Width
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction, Tokens
from mutoscope.plugins.autoencoders.codebooks import LearnedCodebook, encodings, nearest


@final
class VitVqgan(Autoencoder):
    """Transformers around a small codebook on a sphere, frame by frame. Yu et al. 2022, sec. 3, arXiv:2110.04627.

    What Parti draws with (Yu et al. 2022, sec. 2.1, arXiv:2206.10789). Square patches, one token each, pre-norm blocks
    with fixed positions; a projection to few channels, in which codes are looked up (factorised codes), and both sides
    are normalised to length one, so that the nearest is the most similar. Terms `codebook` and `commitment`. The
    codebook starts at encodings of training clips. Adversarial, perceptual and logit-Laplace losses are the
    objective's affair.

    codes, code_width: of the codebook. patch: side in pixels. width, depth, heads: of either transformer; mlp: hidden
    width of its feed-forward layers.
    """

    name = "vit_vqgan"
    paper = "Yu et al. 2022, arXiv:2110.04627"
    tiny = {"codes": 16, "code_width": 4, "patch": 4, "width": 32, "depth": 1, "heads": 2, "mlp": 64}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        codes: Count = 8192,
        code_width: Width = 32,
        patch: Count = 8,
        width: Width = 512,
        depth: Depth = 8,
        heads: Heads = 8,
        mlp: Width = 2048,
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width: positions need sines and cosines of two axes, so it divides by 4; got {width}")
        self.clip, self.patch, self.code_width, self.width = clip, patch, code_width, width
        pixels = clip.channels * patch**2
        self.encoder = _Vit(pixels, width, depth, heads, mlp, code_width)
        self.codebook = LearnedCodebook(codes, code_width)
        nn.init.normal_(self.codebook.vectors)
        self.decoder = _Vit(code_width, width, depth, heads, mlp, pixels)

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        stride, codes = (1, self.patch, self.patch), len(self.codebook.vectors)
        yield LatentFact(self.code_width, stride, grid, codebook=codes, mixed=self.clip.mixed)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, -(-size[0] // self.patch), -(-size[1] // self.patch))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows * self.patch, grid.columns * self.patch

    def encode(self, video: Tensor) -> Latents:
        z = self._encoded(video)
        ids = nearest(rearrange(z, "b c t h w -> (b t h w) c"), self.codes())
        return Latents(ids.view(len(z), *z.shape[2:]), ids=True)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        return self._decoded(rearrange(F.embedding(latents.values, self.codes()), "b t h w c -> b c t h w"))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        z = self._encoded(video)
        vectors = F.normalize(self.codebook.vectors, dim=-1)
        ids = nearest(rearrange(z, "b c t h w -> (b t h w) c").detach(), vectors.detach())
        quantised = rearrange(F.embedding(ids.view(len(z), *z.shape[2:]), vectors), "b t h w c -> b c t h w")
        terms = {"codebook": F.mse_loss(quantised, z.detach()), "commitment": F.mse_loss(z, quantised.detach())}
        return Reconstruction(self._decoded(z + (quantised - z).detach()), terms)

    def codes(self) -> Tensor:
        """Of length one."""
        return F.normalize(self.codebook.vectors.detach(), dim=-1)

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Sets the codebook to encodings of training clips."""
        self.codebook.start_at(encodings(self._encoded, batches))

    def _encoded(self, video: Tensor) -> Tensor:
        """B code_width T H W, of length one along the channels."""
        p = self.patch
        if any(n % p for n in video.shape[3:]):
            raise ShapeError(f"vit_vqgan codes multiples of {p} x {p}; got {tuple(video.shape[3:])}")
        t, h, w = video.shape[2], video.shape[3] // p, video.shape[4] // p
        cut = rearrange(video, "b c t (h j) (w k) -> (b t) (h w) (c j k)", j=p, k=p)
        z = rearrange(self.encoder(cut, h, w), "(b t) (h w) c -> b c t h w", t=t, h=h, w=w)
        return F.normalize(z.float(), dim=1)

    def _decoded(self, z: Tensor) -> Tensor:
        t, h, w = z.shape[2:]
        made = self.decoder(rearrange(z, "b c t h w -> (b t) (h w) c"), h, w)
        p = self.patch
        return rearrange(made, "(b t) (h w) (c j k) -> b c t (h j) (w k)", t=t, h=h, w=w, j=p, k=p)


class _Vit(nn.Module):
    """Linear, positions, pre-norm blocks, norm, and two layers with tanh between."""

    def __init__(self, channels: int, width: int, depth: int, heads: int, hidden: int, out: int) -> None:
        super().__init__()
        self.width = width
        self.read = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(_Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, out))

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """M N C of pictures of so many rows and columns of patches."""
        places = Tokens.canvas(Grid(1, rows, columns), 1, x.device).positions
        x = self.read(x)
        x = x + sincos_plane(places, self.width).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))
