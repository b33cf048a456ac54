"""The denoiser `ddpmpp`."""

from __future__ import annotations

from typing import Annotated, final

from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Share, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.unets.ddpm_unet import embedded
from mutoscope.plugins.diffusion.unets.folding import each_frame, inputs, of_frames, pictures, rows
from mutoscope.plugins.diffusion.unets.song import Body


@final
class DdpmPlusPlus(LevelDenoiser):
    """DDPM++, one picture per frame. Song et al. 2021, app. H; as in Karras et al. 2022, table 7, arXiv:2206.00364.

    DDPM's U-Net with sizes that change within residual blocks, four of them per level, and sums scaled by sqrt(1/2).
    Frames do not see each other.

    width: channels at a multiplier of 1. multipliers: one per level, rows and columns halving between them. depth:
    residual blocks per level. attend: strides (1, 2, 4, ...) at which places attend to each other, with one head; the
    middle always does.
    """

    name = "ddpmpp"
    paper = "Song et al. 2021, arXiv:2011.13456"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1}  # noqa: RUF012

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
    ) -> None:
        super().__init__()
        self.width, self.patch = width, tokens.patch
        self.body = Body(
            inputs(tokens, given), process.output_width(tokens), given, width, width, multipliers, depth, attend,
            dropout, taps=(1, 1), pyramid=False,
        )  # fmt: skip

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        frames = conditioning.per_frame
        x = self.body(
            pictures(tokens, conditioning, self.patch),
            each_frame(embedded(level, self.width), tokens),
            each_frame(conditioning.pooled, tokens),
            None if frames is None else of_frames(frames, tokens, self.patch),
            each_frame(conditioning.augmented, tokens),
        )
        return rows(x, tokens)
