"""Sinusoidal embeddings of levels and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoid(x: Tensor, width: int, longest: float = 10000.0) -> Tensor:
    """[cos | sin] of x at geometrically spaced frequencies from 1 to 1/longest: ... to ... width, float32.

    The embedding of levels in DiT and Improved DDPM; Vaswani et al. 2017, sec. 3.5, with the halves side by side.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(longest) * torch.arange(half, dtype=torch.float32, device=x.device) / half)
    angles = x.float()[..., None] * frequencies
    embedded = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.nn.functional.pad(embedded, (0, width - 2 * half))


def sincos_positions(positions: Tensor, width: int) -> Tensor:
    """Fixed embedding of (t, y, x) positions, ... 3 to ... width, float32.

    A quarter of the width (rounded down to even) for time where positions differ in time, the rest for rows and
    columns; each axis [sin | cos], as MAE and DiT do in two dimensions.
    """
    time = width // 4 // 2 * 2
    space = (width - time) // 4 * 2
    parts = [_sincos(positions[..., 0], time), _sincos(positions[..., 1], space), _sincos(positions[..., 2], space)]
    embedded = torch.cat(parts, dim=-1)
    return torch.nn.functional.pad(embedded, (0, width - embedded.shape[-1]))


def sincos_plane(positions: Tensor, width: int) -> Tensor:
    """As `sincos_positions` for rows and columns only: the table of DiT, columns first (He et al. 2022)."""
    parts = [_sincos(positions[..., 2], width // 2), _sincos(positions[..., 1], width // 2)]
    return torch.cat(parts, dim=-1)


def _sincos(x: Tensor, width: int) -> Tensor:
    half = width // 2
    frequencies = (
        torch.arange(half, dtype=torch.float32, device=x.device).div_(max(half, 1)).mul_(-math.log(10000.0)).exp_()
    )
    angles = x.float()[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
