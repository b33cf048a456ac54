"""Geometric changes of training clips, of which the network is told so that it need not repeat them.

Karras et al. 2022, app. F.2 and table 6, after Karras et al. 2020, arXiv:2006.06676. Pixels are read between cells
linearly and mirrored at the edges, where the paper filters with a wavelet.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.randomness import Draw
from mutoscope.core.values import Tokens

LABEL = 9
"""Numbers that say what was done: mirrored in x and y, scale, turn (2), stretch (2), shift (2); all 0 for nothing."""
SCALE = 0.2
"""Deviation of the logarithm, to base 2, of the scale and of the stretch."""
SHIFT = 1.0 / 8.0
"""Deviation of the shift, in widths of the picture."""


def augmented(tokens: Tokens, draw: Draw, share: float) -> tuple[Tokens, Tensor]:
    """Regular tokens of one cell each, every clip changed as a whole, and what was done to each: K LABEL.

    share: probability of each change; mirroring in x is as likely as not, and harmless.
    """
    label, matrix = changes(draw, share)
    grid = tokens.as_grid()
    frames = rearrange(grid, "b c t h w -> b (c t) h w")
    places = F.affine_grid(matrix[:, :2], list(frames.shape), align_corners=False)
    moved = F.grid_sample(frames, places, mode="bilinear", padding_mode="reflection", align_corners=False)
    # What is only mirrored in x is mirrored exactly.
    mirrored = torch.where((label[:, :1] > 0)[..., None, None], frames.flip(-1), frames)
    only = (label[:, 1:] == 0).all(dim=1)[:, None, None, None]
    made = torch.where(only, mirrored, moved)
    return tokens.from_grid(rearrange(made, "b (c t) h w -> b c t h w", t=grid.shape[2])), label


def changes(draw: Draw, share: float) -> tuple[Tensor, Tensor]:
    """What is done to each clip, K LABEL, and the map from a place in the result to one in the clip, K 3 3."""
    happens = draw.uniform("augment", 5) < share
    flip_x = draw.uniform("augment.flip") < 0.5
    flip_y = happens[:, 0] & (draw.uniform("augment.flip_y") < 0.5)
    size = torch.where(happens[:, 1], draw.normal("augment.scale"), 0.0)
    turn = torch.where(happens[:, 2], (draw.uniform("augment.turn") * 2 - 1) * math.pi, 0.0)
    along = torch.where(happens[:, 3], (draw.uniform("augment.axis") * 2 - 1) * math.pi, 0.0)
    stretch = torch.where(happens[:, 3], draw.normal("augment.stretch"), 0.0)
    shift = torch.where(happens[:, 4, None], draw.normal("augment.shift", 2), 0.0)
    label = torch.stack(
        [
            flip_x.float(),
            flip_y.float(),
            size,
            turn.cos() - 1,
            turn.sin(),
            stretch * along.cos(),
            stretch * along.sin(),
            shift[:, 0],
            shift[:, 1],
        ],
        dim=1,
    )
    zoom, pull = torch.exp2(SCALE * size), torch.exp2(SCALE * stretch)
    matrix = _diagonal(1 - 2 * flip_x.float(), 1 - 2 * flip_y.float())
    matrix = matrix @ _diagonal(1 / zoom, 1 / zoom) @ _turned(turn)
    matrix = matrix @ _turned(along) @ _diagonal(1 / pull, pull) @ _turned(-along)
    move = torch.eye(3, device=label.device).repeat(len(label), 1, 1)
    # Places run from -1 to 1 over the picture's width.
    move[:, :2, 2] = -2 * SHIFT * shift
    return label, matrix @ move


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=-1))


def _turned(angle: Tensor) -> Tensor:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).view(-1, 3, 3)
