"""Rotary position embedding over time, rows and columns (Su et al. 2021, arXiv:2104.09864, one axis after another)."""

from __future__ import annotations

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, B 1 N head_width/2 each; computed once per forward pass and shared by all blocks."""


def rotation(positions: Tensor, head_width: int, longest: float = 100.0) -> Rotation:
    """Angles of B N 3 positions (t, y, x) for heads of an even width.

    The pairs of a head are dealt to the axes: a quarter to time, the rest to rows and columns in halves. longest: the
    period of the slowest pair is 2 pi longest cells.
    """
    pairs = head_width // 2
    time = pairs // 4
    rows = (pairs - time) // 2
    angles = []
    for axis, count in enumerate((time, rows, pairs - time - rows)):
        exponents = torch.arange(count, dtype=torch.float32, device=positions.device) / max(count, 1)
        angles.append(positions[..., axis, None].float() * longest ** (-exponents))
    angle = torch.cat(angles, dim=-1)[:, None]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turns B heads N head_width by the angles; halves of a head are the two coordinates of its pairs."""
    cos, sin = by
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
