"""The `ldm_text` conditioner."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from annotated_types import Ge
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.facts import Captioned, ClipFact, ConditioningFact
from mutoscope.core.layers.bpe import VOCABULARY, cut, ids_of
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Heads, Share, Width
from mutoscope.core.values import Batch, Conditioning


@final
class LdmText(Conditioner):
    """Latent diffusion's text encoder, learned with the denoiser. Rombach et al. 2022, sec. 4.3.1 and app. E.2.1.

    A transformer that sees the whole prompt, padding among it, with learned positions. The paper cuts text by BERT's
    word pieces; here it is byte pairs, folded into the vocabulary where that is smaller. Gives a sequence.

    width, depth, heads, head_width: of the transformer. length: ids of a prompt. vocabulary: rows of the table. head:
    an unused projection onto the vocabulary, which the released model has among its parameters. dropout: share of
    training clips that are told nothing.
    """

    name = "ldm_text"
    paper = "Rombach et al. 2022, arXiv:2112.10752"
    tiny = {"width": 16, "depth": 1, "heads": 2, "head_width": 8, "length": 12, "vocabulary": 500}  # noqa: RUF012

    def __init__(
        self,
        clip: Annotated[ClipFact, Captioned],
        *,
        width: Width = 1280,
        depth: Depth = 32,
        heads: Heads = 8,
        head_width: Width = 64,
        length: Annotated[int, Ge(2)] = 77,
        vocabulary: Count = VOCABULARY,
        head: bool = False,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.width, self.length, self.vocabulary, self.dropout = width, length, vocabulary, dropout
        self.table, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        for table in (self.table, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary) if head else None

    def forward(self, ids: Tensor) -> Tensor:
        """U L integers to U L width."""
        x = self.table(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        prompts = batch.prompt if batch.prompt is not None else ("",) * len(batch)
        rows = [cut(ids_of(prompt), self.length) for prompt in (*prompts, "")]
        padded = [[i % self.vocabulary for i in row] + [0] * (self.length - len(row)) for row in rows]
        ids = torch.tensor(padded, device=self.table.weight.device)
        sequence, mask = self(ids), torch.ones_like(ids, dtype=torch.bool)
        told = Conditioning(sequence=sequence[:-1], mask=mask[:-1], prompt_ids=ids[:-1])
        if self.dropout == 0:
            return told
        nothing = (x[-1:].expand(len(prompts), *x.shape[1:]) for x in (sequence, mask, ids))
        return Conditioning(None, told.sequence, told.mask, told.prompt_ids, null=Conditioning(None, *nothing))

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(sequence=self.width, length=self.length, vocabulary=self.vocabulary),)


class Block(nn.Module):
    """Attention whose queries, keys and values have no bias, and a feed-forward layer, each with its norm before it."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * inner, bias=False), nn.Linear(inner, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm1(x)), "u l (three h d) -> three u h l d", three=3, h=self.heads).unbind(
            0
        )
        x = x + self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "u h l d -> u l (h d)"))
        return x + self.down(F.gelu(self.up(self.norm2(x))))
