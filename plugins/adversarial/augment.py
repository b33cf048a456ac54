"""Differentiable augmentation of clips, the same for all frames of a clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mutoscope.core.randomness import Draw

Change = Literal["colour", "translate", "cutout", "mirror", "stretch"]
"""colour: brightness, saturation, contrast. translate: by up to an eighth, zeros come in. cutout: a square of half the
size is blanked. mirror: left and right are exchanged. stretch: time runs up to twice as fast or slow around the middle.
"""


def augmented(grid: Tensor, changes: tuple[Change, ...], chance: Tensor | float, draw: Draw) -> Tensor:
    """B C T H W with each change made to a clip with a chance.

    Zhao et al. 2020, arXiv:2006.10738 (colour, translation, cutout; always), Karras et al. 2020, arXiv:2006.06676 (a
    chance), Brooks et al. 2022, arXiv:2206.03429, sec. 3.2 (the same for all frames; time stretched by 2^U(-1, 1)).
    """
    for change in changes:
        made = CHANGES[change](grid, draw)
        chosen = draw.uniform(f"{change}.whether") < chance
        grid = torch.where(_of_clip(chosen), made, grid)
    return grid


def _of_clip(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1, 1)


def _colour(grid: Tensor, draw: Draw) -> Tensor:
    grid = grid + _of_clip(draw.uniform("brightness") - 0.5).to(grid)
    grey = grid.mean(dim=1, keepdim=True)
    grid = grey + (grid - grey) * _of_clip(2.0 * draw.uniform("saturation")).to(grid)
    level = grid.mean(dim=(1, 2, 3, 4), keepdim=True)
    return level + (grid - level) * _of_clip(0.5 + draw.uniform("contrast")).to(grid)


def _translate(grid: Tensor, draw: Draw) -> Tensor:
    for dim, name in ((3, "rows"), (4, "columns")):
        n = grid.shape[dim]
        most = max(1, round(n / 8))
        by = torch.floor(draw.uniform(name) * (2 * most + 1)).long() - most
        source = torch.arange(n, device=grid.device) - by[:, None]
        shape = [len(grid), 1, 1, 1, 1]
        shape[dim] = n
        inside = ((source >= 0) & (source < n)).view(shape)
        grid = grid.gather(dim, source.clamp(0, n - 1).view(shape).expand_as(grid)) * inside
    return grid


def _cutout(grid: Tensor, draw: Draw) -> Tensor:
    inside = None
    for dim, name in ((3, "top"), (4, "left")):
        n = grid.shape[dim]
        centre = draw.uniform(name)[:, None] * n
        shape = [len(grid), 1, 1, 1, 1]
        shape[dim] = n
        near = ((torch.arange(n, device=grid.device) + 0.5 - centre).abs() <= n / 4).view(shape)
        inside = near if inside is None else inside & near
    assert inside is not None
    return torch.where(inside, 0.0, grid)


def _mirror(grid: Tensor, draw: Draw) -> Tensor:
    return grid.flip(4)


def _stretch(grid: Tensor, draw: Draw) -> Tensor:
    frames = grid.shape[2]
    speed = torch.exp2(2.0 * draw.uniform("speed") - 1.0)[:, None]
    middle = (frames - 1) / 2
    at = (middle + (torch.arange(frames, device=grid.device) - middle) * speed).clamp(0, frames - 1)
    before = at.floor().long()
    share = (at - before).view(-1, 1, frames, 1, 1).to(grid)

    def frame(number: Tensor) -> Tensor:
        return grid.gather(2, number.view(-1, 1, frames, 1, 1).expand_as(grid))

    return torch.lerp(frame(before), frame((before + 1).clamp(max=frames - 1)), share)


CHANGES: dict[Change, Callable[[Tensor, Draw], Tensor]] = {
    "colour": _colour,
    "translate": _translate,
    "cutout": _cutout,
    "mirror": _mirror,
    "stretch": _stretch,
}
