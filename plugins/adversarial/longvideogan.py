"""LongVideoGAN's low-resolution generator: every frame has a code of its own, smooth at many time scales."""

from __future__ import annotations

import math
from typing import Annotated, final

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Natural, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.adversarial.equalised import EqualLinear, StyledConv, bent, unit
from mutoscope.plugins.adversarial.grids import cells_of, check_cells, field_of, tokens_of

TAPS = 4
"""Length of the filter before styles are taken at a coarser rate, in steps of that rate."""
BETA = 6.0
"""Shape of the Kaiser windows."""


@final
class Longvideogan(OneStepDenoiser):
    """Videos whose content changes over time, from noise filtered in time. Brooks et al. 2022, arXiv:2206.03429, sec. 3.2.

    White noise along time is smoothed by many low-pass filters whose footprints are spaced evenly in their logarithm,
    each brought to unit size, and mapped to a style for every frame. The coarsest styles make the first map. Blocks over
    space and time double it in time and, some, in space; blocks over space alone follow. Each is modulated frame by frame
    by the styles at its own rate. Frames beyond both ends are made too and cut off, so that shifting the noise by a
    coarsest step shifts the clip; a clip of any number of frames can be asked for. Pooled conditioning is added to the
    styles.

    noise_channels: of the white noise; filters: of each. footprints: shortest and longest, in frames. base: channels of
    the first map. temporal, spatial: channels after each block of either kind. doublings: of time, by the first blocks
    over time; in_space: how many of these, the last ones, also double space. Every other block over space doubles it,
    the first one first. padding: frames beyond either end, at every rate.
    """

    name = "longvideogan"
    paper = "Brooks et al. 2022, arXiv:2206.03429"
    tiny = {  # noqa: RUF012
        "noise_channels": 2, "filters": 4, "footprints": (3, 9), "base": 8, "temporal": (8, 8), "doublings": 1,
        "in_space": 1, "spatial": (8,), "padding": 3,
    }  # fmt: skip

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: OneStepProcess,
        *,
        noise_channels: Count = 8,
        filters: Count = 128,
        footprints: tuple[Count, Count] = (125, 5000),
        base: Width = 512,
        temporal: tuple[Width, ...] = (512, 512, 512, 512, 256, 256),
        doublings: Natural = 5,
        in_space: Natural = 2,
        spatial: tuple[Width, ...] = (128, 128, 64, 64),
        padding: Count = 8,
    ) -> None:
        super().__init__()
        if not in_space <= doublings <= len(temporal):
            raise ValueError("doublings: at most one for each block over time, and in_space at most as many")
        self.patch, self.field = tokens.patch, field_of(tokens)
        self.channels, self.doublings, self.padding = noise_channels, doublings, padding
        self.code = noise_channels * filters
        self.register_buffer("filters", low_pass(filters, footprints), persistent=False)
        self.mapping = nn.ModuleList(EqualLinear(self.code, self.code, rate=0.01) for _ in range(2))
        self.told = nn.Linear(given.pooled, self.code) if given.pooled else None
        halvings = in_space + (len(spatial) + 1) // 2
        self.sizes = [tuple(-(-n // 2**k) for n in self.field.size) for k in reversed(range(halvings + 1))]
        self.start = EqualLinear(self.code, base)
        self.constant = nn.Parameter(torch.randn(1, base, 1, *self.sizes[0]))
        self.blocks = nn.ModuleList()
        widths, level = [base, *temporal, *spatial], 0
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            over_time = i < len(temporal)
            in_time = i < doublings
            grows = doublings - in_space <= i < doublings if over_time else (i - len(temporal)) % 2 == 0
            level += grows
            kernel = (3, 3, 3) if over_time else (1, 3, 3)
            self.blocks.append(Block(a, b, self.code, kernel, in_time, self.sizes[level] if grows else None, padding))
        self.picture = StyledConv(widths[-1], self.field.channels, self.code, (1, 1, 1), demodulated=False)

    @property
    def step(self) -> int:
        """Frames to a frame of the first map."""
        return 2**self.doublings

    def rates(self) -> list[int]:
        """Frames to a frame, at the first map and after every doubling."""
        return [2**k for k in reversed(range(self.doublings + 1))]

    def reach(self, frames: int) -> tuple[int, int]:
        """Frames of style that a clip needs: how many in all, and how many before its first."""
        before = self.padding * self.step + TAPS * self.step // 2
        return -(-frames // self.step) * self.step + 2 * before, before

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        """White noise `motion`, B time channels, as long as the filters reach beyond the clip."""
        length = self.reach(cells_of(canvas, self.patch).frames)[0] + self.filters.shape[-1] - 1
        return {"motion": draw.normal("motion", length, self.channels)}

    def styles(self, noise: dict[str, Tensor], conditioning: Conditioning) -> Tensor:
        """One for every frame that is needed, B T code."""
        w = unit(self.smoothed(noise["motion"]))
        for layer in self.mapping:
            w = bent(layer(w))
        if self.told is not None and conditioning.pooled is not None:
            w = w + self.told(conditioning.pooled)[:, None]
        return w

    def smoothed(self, white: Tensor) -> Tensor:
        """B time channels of white noise to B T code: each channel by every filter."""
        b = len(white)
        made = F.conv1d(rearrange(white, "b t c -> (b c) 1 t"), self.filters[:, None].to(white.dtype))
        return rearrange(made, "(b c) f t -> b t (c f)", b=b)

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        cells, (rows, columns) = cells_of(canvas, self.patch), self.field.size
        check_cells(self.name, cells._replace(rows=rows, columns=columns), cells)
        w, before = self.styles(noise, conditioning), self.reach(cells.frames)[1]
        steps = -(-cells.frames // self.step)
        paces = {rate: self._paced(w, rate, before, steps * self.step // rate) for rate in self.rates()}
        x = self.start(paces[self.step]).mT[..., None, None] + self.constant
        x, rate = x * math.sqrt(0.5), self.step
        for block in self.blocks:
            rate = rate // 2 if block.in_time else rate
            x = block(x, paces[rate])
        x = self.picture(x, paces[rate])[:, :, self.padding :] * 0.25
        return tokens_of(x[:, :, : cells.frames], self.patch)

    def _paced(self, w: Tensor, rate: int, before: int, frames: int) -> Tensor:
        """Styles at one of every `rate` frames, of so many and the padding on either side."""
        if rate > 1:
            taps = kaiser(TAPS * rate).to(w)
            w = F.pad(w, (0, 0, 0, rate))
            smooth = F.conv1d(rearrange(w, "b t c -> (b c) 1 t"), taps.view(1, 1, -1), stride=rate)
            w = rearrange(smooth, "(b c) 1 t -> b t c", b=len(w))
            # Filter n is centred on the frames that step n + TAPS / 2 - 1/2 stands for.
            first = before // rate - self.padding - (TAPS - 1) // 2
            return w[:, first : first + frames + 2 * self.padding]
        return w[:, before - self.padding : before + frames + self.padding]


class Block(nn.Module):
    """Two styled convolutions beside a linear way around; time and space are doubled before.

    in_time: whether time is doubled, and cut back to the padding. size: rows and columns after doubling space, or None.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        code: int,
        kernel: tuple[int, int, int],
        in_time: bool,
        size: tuple[int, ...] | None,
        padding: int,
    ) -> None:
        super().__init__()
        self.in_time, self.size, self.padding = in_time, size, padding
        self.conv0 = StyledConv(channels, channels, code, kernel)
        self.conv1 = StyledConv(channels, out, code, kernel)
        self.around = nn.Parameter(torch.randn(out, channels, 1, 1, 1))

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """B C T H W to B out T' H' W'. styles: B T' code."""
        x = self._grown(x)
        h = bent(self.conv1(bent(self.conv0(x, styles)), styles))
        return (h + F.conv3d(x, self.around / math.sqrt(self.around.shape[1]))) * math.sqrt(0.5)

    def _grown(self, x: Tensor) -> Tensor:
        t, h, w = x.shape[2:]
        if self.in_time:
            x = F.interpolate(x, (2 * t, h, w), mode="trilinear", align_corners=False)
            x = x[:, :, self.padding : -self.padding]
        if self.size is not None:
            x = F.interpolate(x, (x.shape[2], 2 * h, 2 * w), mode="trilinear", align_corners=False)
            x = x[..., : self.size[0], : self.size[1]]
        return x


def low_pass(count: int, footprints: tuple[int, int]) -> Tensor:
    """Kaiser windows, count x longest footprint, centred, footprints even in their logarithm, each of unit L2 norm."""
    shortest, longest = footprints
    rows = np.zeros((count, longest), dtype=np.float32)
    for i, length in enumerate(np.geomspace(shortest, longest, count).round().astype(int)):
        window = np.kaiser(length, BETA)
        start = (longest - length) // 2
        rows[i, start : start + length] = window / np.linalg.norm(window)
    return torch.tensor(rows)


def kaiser(length: int) -> Tensor:
    """A Kaiser window whose sum is one."""
    window = np.kaiser(length, BETA)
    return torch.tensor(window / window.sum(), dtype=torch.float32)
