"""The denoiser `unclip_upsampler`: ADM's U-Net without attention."""

from __future__ import annotations

from typing import Annotated, final

import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.norms import GroupNorm
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Depth, Positive, Share, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.unets.blocks import Modulate, Residual, Told, silenced
from mutoscope.plugins.diffusion.unets.folding import each_frame, inputs, pictures, rows
from mutoscope.plugins.diffusion.unets.skeleton import U


@final
class UnclipUpsampler(LevelDenoiser):
    """Convolutions alone, so that a network that has learned crops serves pictures of any size. Ramesh et al. 2022,
    sec. 2.1 and table 3.

    The earlier stage's picture comes as conditioning cells beside the input; the paper tells it nothing else, and a
    pooled vector is used where there is one.

    width, multipliers, depth, modulate, dropout: as in `adm`.
    """

    name = "unclip_upsampler"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 320,
        multipliers: tuple[Positive, ...] = (1, 2, 3, 4),
        depth: Depth = 3,
        modulate: Modulate = "add",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers: a U-Net has at least one level")
        told, widths = 4 * width, [int(width * m) for m in multipliers]
        self.width, self.patch = width, tokens.patch
        self.told = Told(ConditioningFact(pooled=given.pooled), width, told)
        self.embed = nn.Conv2d(inputs(tokens, given), widths[0], 3, padding=1)
        self.body = U(
            widths[0],
            widths,
            depth,
            (),
            block=lambda channels, out: Residual(channels, out, told, modulate, dropout=dropout),
            attention=lambda channels: None,
            down=lambda c: Residual(c, c, told, modulate, "down", dropout),
            up=lambda c: Residual(c, c, told, modulate, "up", dropout),
        )
        self.norm = GroupNorm(widths[0])
        self.out = silenced(nn.Conv2d(widths[0], process.output_width(tokens), 3, padding=1))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        level = each_frame(sinusoid(level, self.width), tokens)  # type: ignore[assignment]
        told = self.told(level, each_frame(conditioning.pooled, tokens), None)
        x = self.body(self.embed(pictures(tokens, conditioning, self.patch)), told)
        return rows(self.out(F.silu(self.norm(x))), tokens)
