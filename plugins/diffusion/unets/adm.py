"""The denoiser `adm`."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.norms import GroupNorm
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Natural, Positive, Share, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.unets.blocks import (
    Attention,
    Double,
    Halve,
    Modulate,
    Residual,
    Told,
    silenced,
)
from mutoscope.plugins.diffusion.unets.folding import each_frame, inputs, of_frames, pictures, rows
from mutoscope.plugins.diffusion.unets.skeleton import U


@final
class Adm(LevelDenoiser):
    """The ablated diffusion model's U-Net, one picture per frame. Dhariwal & Nichol 2021, sec. 3, arXiv:2105.05233.

    The level and the class scale and shift every residual block; attention at several sizes; rows and columns change
    within residual blocks. Conditioning cells, such as the earlier stage's video enlarged, are put beside the input,
    which makes it the paper's upsampler. With `resample: convolution` and 4 heads it is the U-Net of Nichol & Dhariwal
    2021. Frames do not see each other.

    width: channels of the first level at a multiplier of 1. multipliers: one per level, rows and columns halving
    between them. depth: residual blocks per level. attend: strides (1, 2, 4, ...) at which places attend to each other;
    the middle always does. heads: of every attention; 0 for as many as `head_width` gives. modulate, resample: as in
    the papers' ablations.
    """

    name = "adm"
    paper = "Dhariwal & Nichol 2021, arXiv:2105.05233"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1, "attend": (2,), "head_width": 8}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 192,
        multipliers: tuple[Positive, ...] = (1, 2, 3, 4),
        depth: Depth = 3,
        attend: tuple[Count, ...] = (2, 4, 8),
        heads: Natural = 0,
        head_width: Width = 64,
        modulate: Modulate = "scale_shift",
        resample: Literal["residual", "convolution"] = "residual",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers: a U-Net has at least one level")
        told, widths = 4 * width, [int(width * m) for m in multipliers]
        self.width, self.patch = width, tokens.patch
        self.told = Told(given, width, told)
        self.embed = nn.Conv2d(inputs(tokens, given), widths[0], 3, padding=1)
        inside = resample == "residual"
        self.body = U(
            widths[0],
            widths,
            depth,
            attend,
            block=lambda channels, out: Residual(channels, out, told, modulate, "none", dropout),
            attention=lambda channels: Attention(channels, heads or max(1, channels // head_width)),
            down=lambda c: Residual(c, c, told, modulate, "down", dropout) if inside else Halve(c),
            up=lambda c: Residual(c, c, told, modulate, "up", dropout) if inside else Double(c),
        )
        self.norm = GroupNorm(widths[0])
        self.out = silenced(nn.Conv2d(widths[0], process.output_width(tokens), 3, padding=1))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        frames = conditioning.per_frame
        told = self.told(
            each_frame(sinusoid(level, self.width), tokens),
            each_frame(conditioning.pooled, tokens),
            None if frames is None else of_frames(frames, tokens, self.patch),
        )
        x = self.body(self.embed(pictures(tokens, conditioning, self.patch)), told)
        return rows(self.out(F.silu(self.norm(x))), tokens)
