"""The denoiser `ddpm_unet`."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.norms import GroupNorm
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Share, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.unets.blocks import Attention, Double, Halve, Residual, Told, silenced
from mutoscope.plugins.diffusion.unets.folding import each_frame, inputs, of_frames, pictures, rows
from mutoscope.plugins.diffusion.unets.skeleton import U

EPS = 1e-6


@final
class DdpmUNet(LevelDenoiser):
    """The U-Net of DDPM, one picture per frame. Ho et al. 2020, app. B, arXiv:2006.11239.

    Residual blocks with group norms and the level added between their convolutions, attention with one head, strided
    convolutions padded at the end, as the released code has them. The paper's model is unconditional; a pooled vector
    is added to the level, as ADM does. Frames do not see each other.

    width: channels of the first level. multipliers: of the width, one per level, rows and columns halving between
    them. depth: residual blocks per level. attend: strides (1, 2, 4, ...) at which places attend to each other; on
    pictures of 32 x 32, 2 is the paper's 16 x 16. The middle always does.
    """

    name = "ddpm_unet"
    paper = "Ho et al. 2020, arXiv:2006.11239"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 128,
        multipliers: tuple[Count, ...] = (1, 2, 2, 2),
        depth: Depth = 2,
        attend: tuple[Count, ...] = (2,),
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers: a U-Net has at least one level")
        told = 4 * width
        self.width, self.patch = width, tokens.patch
        self.told = Told(given, width, told)
        self.embed = nn.Conv2d(inputs(tokens, given), width, 3, padding=1)
        self.body = U(
            width,
            [width * m for m in multipliers],
            depth,
            attend,
            block=lambda channels, out: Residual(channels, out, told, "add", "none", dropout, EPS),
            attention=lambda channels: Attention(channels, 1, EPS),
            down=lambda channels: Halve(channels, same=True),
            up=Double,
        )
        end = width * multipliers[0]
        self.norm = GroupNorm(end, EPS)
        self.out = silenced(nn.Conv2d(end, process.output_width(tokens), 3, padding=1))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        frames = conditioning.per_frame
        told = self.told(
            each_frame(embedded(level, self.width), tokens),
            each_frame(conditioning.pooled, tokens),
            None if frames is None else of_frames(frames, tokens, self.patch),
        )
        x = self.body(self.embed(pictures(tokens, conditioning, self.patch)), told)
        return rows(self.out(F.silu(self.norm(x))), tokens)


def embedded(level: Tensor, width: int) -> Tensor:
    """[sin | cos] at frequencies from 1 to exactly 1/10000, K to K width: the order and ends of DDPM's code."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=level.device)
    angles = level.float()[:, None] * torch.exp(-math.log(10000.0) * steps / max(half - 1, 1))
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, width - 2 * half))
