"""From image models to video models: kernels of one frame to kernels of several, and positions to other grids.

Arnab et al. 2021 (ViViT), sec. 3.2 and 3.4, arXiv:2103.15691; Dosovitskiy et al. 2021 (ViT), sec. 3.2.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def central_frame(weight: Tensor, frames: int) -> Tensor:
    """D (c p q) of an image's patches to D (c t p q): the whole at frame t // 2, zeros elsewhere (eq. 9)."""
    kernel = torch.zeros(*weight.shape, frames, dtype=weight.dtype, device=weight.device)
    kernel[..., frames // 2] = weight
    return kernel


def inflated(weight: Tensor, frames: int) -> Tensor:
    """The same with a share of 1 / t at every frame (eq. 8; Carreira & Zisserman 2017)."""
    return (weight / frames)[..., None].expand(*weight.shape, frames).clone()


CARRIED = {"central": central_frame, "inflated": inflated}


def carried(weight: Tensor, patch: tuple[int, int, int], way: str) -> Tensor:
    """A projection of patches, D (c p q), as one of tubelets, D (c t p q). way: `central` or `inflated`."""
    t, h, w = patch
    kernel = rearrange(weight, "d (c p q) -> d c p q", p=h, q=w)
    return rearrange(CARRIED[way](kernel, t), "d c p q t -> d (c t p q)")


def uniform_frames(frames: int, count: int) -> np.ndarray:
    """The numbers of `count` frames spread evenly over a clip: round(k F / (n + 1)), k = 1 ... n."""
    return np.rint(np.arange(1, count + 1) * frames / (count + 1)).astype(int).clip(max=frames - 1)


def resized_positions(table: Tensor, old: tuple[int, int, int], new: tuple[int, int, int]) -> Tensor:
    """A table of (t h w) positions x D for another grid.

    Rows and columns are interpolated (bicubic, antialiased), every frame alike; frames linearly. An image's table is
    repeated over time.
    """
    if old == new:
        return table
    grid = rearrange(table.float(), "(t h w) d -> t d h w", t=old[0], h=old[1], w=old[2])
    if old[1:] != new[1:]:
        grid = F.interpolate(grid, size=new[1:], mode="bicubic", antialias=True)
    if old[0] != new[0]:
        lines = rearrange(grid, "t d h w -> (h w) d t")
        lines = F.interpolate(lines, size=new[0], mode="linear") if old[0] > 1 else lines.expand(-1, -1, new[0])
        grid = rearrange(lines, "(h w) d t -> t d h w", h=new[1])
    return rearrange(grid, "t d h w -> (t h w) d").to(table.dtype)
