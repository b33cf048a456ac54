"""The denoiser `ripple`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.embeddings import sincos_positions, sinusoid
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Depth, Width
from mutoscope.core.values import Conditioning, Tokens


@final
class Ripple(LevelDenoiser):
    """Mixes tokens by a Fourier transform over tokens and features. Lee-Thorp et al. 2022, arXiv:2105.03824, sec. 3.1.

    The level and the pooled conditioning, and the mean of a prompt's features, shift and scale every block's input.

    width: features of a token. depth: number of blocks.
    """

    name = "ripple"
    paper = "Lee-Thorp et al. 2022, arXiv:2105.03824"
    tiny: ClassVar[dict[str, Any]] = {"width": 32, "depth": 2}

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 128,
        depth: Depth = 4,
    ) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Linear(tokens.width, width)
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(given.pooled, width) if given.pooled else None
        self.sequence = nn.Linear(given.sequence, width) if given.sequence else None
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, process.output_width(tokens))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width of a token to B N output_width."""
        x = self.embed(tokens.filled())
        x = x + sincos_positions(tokens.positions[:1], self.width).to(x.dtype)
        told = self.level(sinusoid(level, self.width).to(x.dtype))
        if self.pooled is not None and conditioning.pooled is not None:
            told = told + self.pooled(conditioning.pooled)
        if self.sequence is not None and conditioning.sequence is not None:
            told = told + self.sequence(_mean(conditioning.sequence, conditioning.mask))
        for block in self.blocks:
            x = block(x, tokens.per_token(told))
        return self.out(self.norm(x))


class Block(nn.Module):
    """x + mix(norm(x)), then an MLP on what is shifted and scaled by what is told."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.LayerNorm(width)
        self.norm = nn.LayerNorm(width)
        self.modulate = nn.Linear(width, 2 * width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x: B N width. told: B 1 width."""
        x = x + mixed(self.mix(x)).to(x.dtype)
        shift, scale = self.modulate(F.silu(told)).chunk(2, dim=-1)
        return x + self.down(F.gelu(self.up(self.norm(x) * (1 + scale) + shift)))


def mixed(x: Tensor) -> Tensor:
    """Real part of the transform over tokens and features, of unit gain; float32, which transforms need on a CPU."""
    return torch.fft.fft2(x.float(), norm="ortho").real


def _mean(sequence: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return sequence.mean(dim=1)
    real = mask[..., None].to(sequence.dtype)
    return (sequence * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
