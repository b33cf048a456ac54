"""LongVideoGAN's super-resolution generator: sharp frames from blurred ones, each by itself."""

from __future__ import annotations

from typing import Annotated, final

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Need, Regular, TokenFact
from mutoscope.core.process import OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Depth, Natural, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.adversarial.equalised import GAIN, EqualLinear, StyledConv, unit
from mutoscope.plugins.adversarial.grids import cells_of, check_cells, field_of, tokens_of

TAPS = 12
"""Length of the filters around the bend of each layer, at twice the rate: StyleGAN3's six at each."""
Beside = Need("a conditioner that gives cells, such as `enlarged` in a cascade", lambda fact: fact.cells > 0)


@final
class LongvideoganUpsampler(OneStepDenoiser):
    """A StyleGAN3 whose every layer also sees the low-resolution frames around its own. Brooks et al. 2022, sec. 3.3,
    arXiv:2206.03429; Karras et al. 2021, arXiv:2106.12423.

    One code for a clip gives the style of all layers. There is no Fourier input: the first map is the low-resolution
    frames. At every layer the frame and so many on either side, resized and side by side, join the features; frames
    beyond the ends are the nearest there are. What bends the signal is done at twice the rate between low-pass filters.
    Frames share nothing else. The low-resolution frames are the conditioning's cells.

    code: numbers of the code, and of the style. mappings: layers from one to the other. widths: channels of the layers.
    doublings: of rows and columns, the first layers being the smallest, spread evenly. context: frames on either side.
    """

    name = "longvideogan_upsampler"
    paper = "Brooks et al. 2022, arXiv:2206.03429"
    tiny = {"code": 8, "widths": (8, 8), "doublings": 1, "context": 1}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: Annotated[ConditioningFact, Beside],
        process: OneStepProcess,
        *,
        code: Width = 512,
        mappings: Depth = 2,
        widths: tuple[Width, ...] = (512, 512, 512, 512, 512, 512, 323, 203, 128, 81, 51, 32),
        doublings: Natural = 2,
        context: Natural = 4,
    ) -> None:
        super().__init__()
        if not widths or doublings >= max(len(widths), 1):
            raise ValueError("doublings: fewer than there are layers")
        self.patch, self.field, self.code, self.context = tokens.patch, field_of(tokens), code, context
        seen = (2 * context + 1) * given.cells
        self.mapping = nn.ModuleList(EqualLinear(code, code, rate=0.01) for _ in range(mappings))
        self.told = nn.Linear(given.pooled, code) if given.pooled else None
        inputs = [0, *widths[:-1]]
        self.layers = nn.ModuleList(
            StyledConv(a + seen or 1, b, code, (1, 3, 3)) for a, b in zip(inputs, widths, strict=True)
        )
        self.levels = [doublings - i * (doublings + 1) // len(widths) for i in range(len(widths))]
        self.picture = StyledConv(widths[-1], self.field.channels, code, (1, 1, 1), demodulated=False)
        self.register_buffer("taps", half_band(), persistent=False)

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        return {"content": draw.normal("content", self.code)}

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        cells, (rows, columns) = cells_of(canvas, self.patch), self.field.size
        check_cells(self.name, cells._replace(rows=rows, columns=columns), cells)
        w = unit(noise["content"])
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), 0.2) * GAIN
        if self.told is not None and conditioning.pooled is not None:
            w = w + self.told(conditioning.pooled)
        styles, around = w[:, None].expand(-1, cells.frames, -1), self._around(conditioning.cells, cells.frames)
        x: Tensor | None = None
        for level, layer in zip(self.levels, self.layers, strict=True):
            size = (-(-rows // 2**level), -(-columns // 2**level))
            beside = None if around is None else resized(around, size)
            x = None if x is None else resized(x, size)
            joined = [part for part in (x, beside) if part is not None]
            here = torch.cat(joined, dim=1) if joined else w.new_ones(len(w), 1, cells.frames, *size)
            x = self._bent(layer(here, styles))
        assert x is not None
        return tokens_of(self.picture(x, styles) * 0.25, self.patch)

    def _around(self, low: Tensor | None, frames: int) -> Tensor | None:
        """B C T H W to B (context C) T H W: each frame with those on either side of it."""
        if low is None:
            return None
        shifts = torch.arange(-self.context, self.context + 1, device=low.device)
        place = (torch.arange(frames, device=low.device)[:, None] + shifts).clamp(0, low.shape[2] - 1)
        return rearrange(low[:, :, place], "b c t k h w -> b (k c) t h w")

    def _bent(self, x: Tensor) -> Tensor:
        """LeakyReLU at twice the rate, between low-pass filters, so that it makes no new frequencies."""
        rows, columns = x.shape[3:]
        finer = doubled(self.taps, rows).mT @ (x @ doubled(self.taps, columns))
        bent = F.leaky_relu(finer, 0.2) * GAIN
        return halved(self.taps, rows).mT @ (bent @ halved(self.taps, columns))


def doubled(taps: Tensor, n: int) -> Tensor:
    """What makes 2 n values of n, by a filter at the doubled rate, zero beyond the ends: a matrix n x 2 n.

    A filter over one channel is a convolution that processors run slowly, and a matrix product fast.
    """
    each = torch.eye(n, device=taps.device, dtype=taps.dtype)[:, None]
    return F.conv_transpose1d(each, 2.0 * taps.view(1, 1, -1), stride=2, padding=TAPS // 2 - 1)[:, 0]


def halved(taps: Tensor, n: int) -> Tensor:
    """What makes n values of 2 n, each second one of the filtered: a matrix 2 n x n."""
    each = torch.eye(2 * n, device=taps.device, dtype=taps.dtype)[:, None]
    return F.conv1d(each, taps.view(1, 1, -1), stride=2, padding=TAPS // 2 - 1)[:, 0]


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """B C T H W with other rows and columns."""
    if tuple(x.shape[3:]) == size:
        return x
    flat = F.interpolate(x.flatten(1, 2), size=size, mode="bilinear", align_corners=False, antialias=not x.is_meta)
    return flat.unflatten(1, (x.shape[1], x.shape[2]))


def half_band() -> Tensor:
    """A low-pass filter at half the rate, a windowed sinc (Kaiser 1974), of unit sum."""
    n = np.arange(TAPS) - (TAPS - 1) / 2
    taps = np.sinc(n / 2) * np.kaiser(TAPS, 4.0)
    return torch.tensor(taps / taps.sum(), dtype=torch.float32)
