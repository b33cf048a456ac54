"""The denoiser `ncsnpp`."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Positive, Share, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.unets.folding import each_frame, inputs, of_frames, pictures, rows
from mutoscope.plugins.diffusion.unets.song import Body


@final
class NcsnPlusPlus(LevelDenoiser):
    """NCSN++, one picture per frame. Song et al. 2021, app. H; as in Karras et al. 2022, table 7, arXiv:2206.00364.

    DDPM++ with random Fourier features of the level, sizes that change by a filter of four taps, and the input led in
    again at every level. Frames do not see each other.

    width, multipliers, depth, attend: as in `ddpmpp`. fourier: deviation of the level's random frequencies.
    """

    name = "ncsnpp"
    paper = "Song et al. 2021, arXiv:2011.13456"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1}  # noqa: RUF012

    frequencies: Tensor

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 128,
        multipliers: tuple[Count, ...] = (2, 2, 2),
        depth: Depth = 4,
        attend: tuple[Count, ...] = (2,),
        dropout: Share = 0.13,
        fourier: Positive = 16.0,
    ) -> None:
        super().__init__()
        self.patch = tokens.patch
        self.register_buffer("frequencies", fourier * torch.randn(width))
        self.body = Body(
            inputs(tokens, given), process.output_width(tokens), given, 2 * width, width, multipliers, depth, attend,
            dropout, taps=(1, 3, 3, 1), pyramid=True,
        )  # fmt: skip

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        frames = conditioning.per_frame
        angles = 2 * math.pi * level.float()[:, None] * self.frequencies
        x = self.body(
            pictures(tokens, conditioning, self.patch),
            each_frame(torch.cat([angles.sin(), angles.cos()], dim=-1), tokens),
            each_frame(conditioning.pooled, tokens),
            None if frames is None else of_frames(frames, tokens, self.patch),
            each_frame(conditioning.augmented, tokens),
        )
        return rows(x, tokens)
