"""The causal 3-D encoder and decoder of the scalar quantisers: those of `causal_kl`, to and from codes."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact
from mutoscope.core.values import Grid
from mutoscope.plugins.autoencoders.causal_kl import Norm, Residual


class Cells(nn.Module):
    """Cubes of pixels folded into channels, residual blocks, a projection; and back. The first frame is coded alone.

    Gupta et al. 2023, sec. 3.1, with the fold in place of strided convolutions, so that all of it runs at the latent
    resolution.
    """

    def __init__(self, clip: ClipFact, code_width: int, stride: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        self.stride = stride
        folded = clip.channels * stride[0] * stride[1] * stride[2]
        kernel = (2, 3, 3)
        self.encoder = nn.Sequential(
            nn.Conv3d(folded, width, 1), *(Residual(width, kernel) for _ in range(depth)), Norm(width),
            nn.Conv3d(width, code_width, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv3d(code_width, width, 1), *(Residual(width, kernel) for _ in range(depth)), Norm(width),
            nn.Conv3d(width, folded, 1),
        )  # fmt: skip

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        t, h, w = self.stride
        return Grid(1 + -(-(frames - 1) // t), -(-size[0] // h), -(-size[1] // w))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        t, h, w = self.stride
        return 1 + (grid.frames - 1) * t, grid.rows * h, grid.columns * w

    def encode(self, video: Tensor) -> Tensor:
        """B C T H W pixels to B code_width T H W. Raises ShapeError on a size that cells do not cover exactly."""
        frames, *size = video.shape[2:]
        t, h, w = self.stride
        if self.video_size(self.latent_grid(frames, (size[0], size[1]))) != (frames, *size):
            raise ShapeError(f"codes are of 1 + k * {t} frames of multiples of {h} x {w}; got {frames} of {size}")
        still = video[:, :, :1].expand(-1, -1, t - 1, -1, -1)
        whole = torch.cat([still, video], dim=2)
        return self.encoder(rearrange(whole, "b c (t i) (h j) (w k) -> b (c i j k) t h w", i=t, j=h, k=w))

    def decode(self, z: Tensor) -> Tensor:
        """B code_width T H W to pixels; of the first cube only the last frame is kept."""
        t, h, w = self.stride
        whole = rearrange(self.decoder(z), "b (c i j k) t h w -> b c (t i) (h j) (w k)", i=t, j=h, k=w)
        return whole[:, :, t - 1 :]
