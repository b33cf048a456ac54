"""The denoiser `unclip_prior`: a transformer that denoises an image embedding."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Pooled, Prompted, Regular, TokenFact
from mutoscope.core.layers.attention import SelfAttention
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Depth, Heads, Width
from mutoscope.core.values import Conditioning, Tokens

BESIDE = 4
"""Rows after the text: its embedding, the level, the noisy vector, the query."""


@final
class UnclipPrior(LevelDenoiser):
    """A causal transformer over text, text embedding, level, noisy image embedding and a query. Ramesh et al. 2022,
    sec. 2.2.

    The answer is read at the query, which sees all before it. Under `ddpm` with `predict: clean` that is the embedding
    itself, as in the paper. A clip is one vector; where clips have more tokens, each is denoised alone.

    width, depth, heads: of the transformer.
    """

    name = "unclip_prior"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    tiny = {"width": 32, "depth": 2, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: Annotated[ConditioningFact, Prompted, Pooled],
        process: LevelProcess,
        *,
        width: Width = 2048,
        depth: Depth = 24,
        heads: Heads = 32,
    ) -> None:
        super().__init__()
        self.width = width
        self.text, self.pooled = nn.Linear(given.sequence, width), nn.Linear(given.pooled, width)
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.noisy = nn.Linear(tokens.width, width)
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.Parameter(0.01 * torch.randn(given.length + BESIDE, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, process.output_width(tokens))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N D to B N output_width."""
        clips, cells, _ = tokens.filled().shape
        assert conditioning.sequence is not None and conditioning.pooled is not None
        told = [
            self.text(conditioning.sequence),
            self.pooled(conditioning.pooled)[:, None],
            self.level(sinusoid(level, self.width).to(self.noisy.weight.dtype))[:, None],
        ]
        before = torch.cat(told, dim=1).repeat_interleave(cells, dim=0)
        noisy = self.noisy(tokens.filled()).flatten(0, 1)[:, None]
        x = torch.cat([before, noisy, self.query.expand_as(noisy)], dim=1) + self.places
        mask = self.mask(conditioning, x.shape[1]).repeat_interleave(cells, dim=0)
        for block in self.blocks:
            x = block(x, mask)
        return self.out(self.norm(x[:, -1])).unflatten(0, (clips, cells))

    def mask(self, conditioning: Conditioning, rows: int) -> Tensor:
        """Who sees whom, K 1 R R: what stands before, and of the text only what is no padding; always itself."""
        assert conditioning.sequence is not None
        device = conditioning.sequence.device
        causal = torch.ones(rows, rows, dtype=torch.bool, device=device).tril()
        if conditioning.mask is None:
            return causal.expand(len(conditioning.sequence), 1, rows, rows)
        real = F.pad(conditioning.mask, (0, BESIDE), value=True)
        return (causal & (real[:, None] | torch.eye(rows, dtype=torch.bool, device=device)))[:, None]


class Block(nn.Module):
    """Attention and a feed-forward layer, each with its norm before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.down(F.gelu(self.up(self.norm2(x))))
