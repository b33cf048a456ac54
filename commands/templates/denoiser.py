"""The denoiser `my_part`: a small transformer over space-time tokens. A start to change."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.attention import CrossAttention, SelfAttention
from mutoscope.core.layers.embeddings import sincos_positions, sinusoid
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Depth, Heads, Width
from mutoscope.core.values import Conditioning, Tokens


@final
class MyPart(LevelDenoiser):
    """Transformer blocks whose normed inputs are shifted by the level and the pooled conditioning.

    width: features of a token. depth: number of blocks. heads: of the attention; they divide the width.
    """

    name = "my_part"
    tiny: ClassVar[dict[str, Any]] = {"width": 32, "depth": 2, "heads": 2}

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 128,
        depth: Depth = 4,
        heads: Heads = 4,
    ) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Linear(tokens.width, width)
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(given.pooled, width) if given.pooled else None
        self.blocks = nn.ModuleList(Block(width, heads, given.sequence) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, process.output_width(tokens))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width of a token to B N output_width."""
        x = self.embed(tokens.filled())
        x = x + sincos_positions(tokens.positions[:1], self.width).to(x.dtype)
        told = self.level(sinusoid(level, self.width).to(x.dtype))
        if self.pooled is not None and conditioning.pooled is not None:
            told = told + self.pooled(conditioning.pooled)
        for block in self.blocks:
            x = block(x, tokens.per_token(told), conditioning)
        return self.out(self.norm(x))


class Block(nn.Module):
    """Attention over the clip, attention to the prompt where it is a sequence, and an MLP, all residual."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if context else 2))
        self.shift = nn.Linear(width, width)
        self.attention = SelfAttention(width, heads)
        self.prompt = CrossAttention(width, context, heads) if context else None
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, told: Tensor, conditioning: Conditioning) -> Tensor:
        """x: B N width. told: B 1 width."""
        x = x + self.attention(self.norms[0](x) + self.shift(F.silu(told)))
        if self.prompt is not None and conditioning.sequence is not None:
            mask = None if conditioning.mask is None else conditioning.mask[:, None, None]
            x = x + self.prompt(self.norms[2](x), conditioning.sequence, mask)
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
