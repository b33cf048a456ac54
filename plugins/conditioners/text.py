"""The `text` conditioner: a small transformer that learns with the denoiser."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from annotated_types import Ge
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import Captioned, ClipFact, ConditioningFact
from mutoscope.core.layers.bpe import VOCABULARY, cut, distinct, ids_of
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Depth, Heads, Share, Width
from mutoscope.core.values import Batch, Conditioning

RADIX = 256
"""An id is RADIX * high + low; see IdTable."""
BRANCH = 0.1
"""Share of a block's branches in the stream of words. At the rate at which a denoiser learns, branches of full size drown
the words within a hundred steps, and what is told no longer tells prompts apart."""


@final
class IdTable(nn.Module):
    """A vector for every id of a large vocabulary, from two small tables.

    The vector of RADIX * h + l is high[h] * low[l], element by element: distinct for all ids, with 449 rows instead of
    49,408, so that the optimizer's dense step costs nothing. Shi et al. 2020, arXiv:1909.02107, sec. 3.1. It learns as
    fast as the whole table.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.high = nn.Parameter(torch.randn(-(-VOCABULARY // RADIX), width))
        self.low = nn.Parameter(torch.randn(RADIX, width))

    def forward(self, ids: Tensor) -> Tensor:
        """... integers to ... width."""
        return F.embedding(ids // RADIX, self.high) * F.embedding(ids % RADIX, self.low)


@final
class TextBlock(nn.Module):
    """Pre-norm transformer block that sees the whole prompt. Its branches enter by a small fixed share, see BRANCH."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: U L D. mask: U 1 1 L, true for tokens that may be looked at."""
        q, k, v = rearrange(self.qkv(self.norm1(x)), "u l (three h d) -> three u h l d", three=3, h=self.heads)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + BRANCH * self.out(rearrange(seen, "u h l d -> u l (h d)"))
        return x + BRANCH * self.down(F.gelu(self.up(self.norm2(x))))


@final
class Text(Conditioner):
    """Byte-pair tokens and a small transformer, trained with the denoiser from nothing.

    Gives a sequence, a pooled vector and the ids. Prompts that repeat within a batch are embedded once. A batch
    without prompts is told nothing: it gets the empty prompt. A prompt longer than `length` loses its end.

    width: of the features. depth: blocks. heads: divide the width. length: tokens of a prompt, start and end
    included. pooling: the pooled vector is the sum over the prompt's tokens, in which one word counts for as much in a
    long prompt as in a short one; their mean; or the last token, the end's.
    dropout: share of training clips that are told nothing, so that guidance is possible; 0 rules guidance out.
    """

    name = "text"
    paper = "Vaswani et al. 2017, arXiv:1706.03762"

    def __init__(
        self,
        clip: Annotated[ClipFact, Captioned],
        *,
        width: Width = 128,
        depth: Depth = 2,
        heads: Heads = 4,
        length: Annotated[int, Ge(2)] = 32,
        pooling: Literal["sum", "mean", "last"] = "sum",
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(field="heads", problem=f"must divide the width {width}", got=heads)
        self.width, self.length, self.pooling, self.dropout = width, length, pooling, dropout
        self.table = IdTable(width)
        self.places = nn.Parameter(torch.randn(length, width))
        self.blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled U D and sequence U L D of distinct prompts: ids U L, mask U L, true for a prompt's tokens."""
        x = self.table(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        x = self.norm(x) * mask[..., None]
        counts = mask.sum(dim=1)
        if self.pooling != "last":
            total = x.sum(dim=1)
            return (total / counts[:, None] if self.pooling == "mean" else total), x
        return x[torch.arange(len(x), device=x.device), counts - 1], x

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        prompts = batch.prompt if batch.prompt is not None else ("",) * len(batch)
        places = distinct((*prompts, ""))
        rows = [cut(ids_of(prompt), self.length) for prompt in places]
        # The transformer runs at the longest prompt's length; only its result is padded to the full one.
        longest, device = max(map(len, rows)), self.places.device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[j < len(row) for j in range(longest)] for row in rows], device=device)
        pooled, sequence = self(ids, mask)
        missing = self.length - longest
        everything = (
            pooled,
            F.pad(sequence, (0, 0, 0, missing)),
            F.pad(mask, (0, missing)),
            F.pad(ids, (0, missing)),
        )
        own = torch.tensor([places[prompt] for prompt in prompts], device=device)
        told = Conditioning(*(x.index_select(0, own) for x in everything))
        if self.dropout == 0:
            return told
        nothing = (x[places[""]].expand(len(prompts), *x.shape[1:]) for x in everything)
        return Conditioning(told.pooled, told.sequence, told.mask, told.prompt_ids, null=Conditioning(*nothing))

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(pooled=self.width, sequence=self.width, length=self.length, vocabulary=VOCABULARY),)
