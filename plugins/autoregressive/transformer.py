"""The `transformer` denoiser."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import ConditioningFact, Discrete, PromptIds, Regular, TokenFact
from mutoscope.core.layers.masked import (
    Banded,
    ContextAttention,
    Dense,
    Layout,
    MaskedAttention,
    Masks,
    Memory,
    Pattern,
    Rollout,
)
from mutoscope.core.process import TokenProcess
from mutoscope.core.settings import Depth, Heads, Natural, Share, Width
from mutoscope.core.values import Conditioning, Grid, Logits, Tokens
from mutoscope.plugins.autoregressive.blocks import Keys, feed_forward
from mutoscope.plugins.autoregressive.encoding import keys_of, visible
from mutoscope.plugins.autoregressive.stream import predicting, reading, rollout_bytes


@final
class Transformer(TokenDenoiser):
    """The encoder-decoder transformer, from prompt ids to visual ids. Vaswani et al. 2017, arXiv:1706.03762.

    As printed: norms after the sum, LN(x + dropout(f(x))), attention without biases, ReLU, sinusoids, ids times the
    root of the width, and one matrix for source, target and softmax: the vocabulary is that of the prompts followed by
    the codebook. The target begins with an empty row. The learning rate of sec. 5.3 is `schedule: rsqrt`.

    depth: blocks of either stack. key_width: of a head's queries and keys, d_k; by default that of its values. mlp:
    hidden width of the feed-forward layer. reach: rows that a row of the decoder's self-attention sees, itself included
    (sec. 4, restricted self-attention); 0 for all.
    """

    name = "transformer"
    paper = "Vaswani et al. 2017, arXiv:1706.03762"
    uses_known = True
    tiny = {"width": 32, "depth": 2, "heads": 2, "mlp": 64}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete, Regular],
        given: Annotated[ConditioningFact, PromptIds],
        process: TokenProcess,
        *,
        width: Width = 192,
        depth: Depth = 3,
        heads: Heads = 6,
        key_width: Width | None = None,
        mlp: Width = 768,
        dropout: Share = 0.1,
        reach: Natural = 0,
    ) -> None:
        super().__init__()
        codes = tokens.codebook or 1  # what assembly refuses is built all the same
        self.causal, self.codes, self.width, self.depth = process.causal, codes, width, depth
        self.words, self.dropout = given.vocabulary, dropout
        self.cached = width + (heads * key_width if key_width else width)
        vocabulary = given.vocabulary + codes + (process.hole is not None)
        self.table = nn.Embedding(vocabulary, width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, key_width, mlp, dropout) for _ in range(depth))
        seen = Banded(reach) if reach else Dense()
        self.blocks = nn.ModuleList(DecoderLayer(width, heads, key_width, mlp, dropout, seen) for _ in range(depth))
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for linear layers, N(0, 1/width) for the table, as released code has it."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.table.weight, std=self.width**-0.5)

    def _layout(self, grid: tuple[int, int, int]) -> Layout:
        return Layout(1, Grid(*grid), self.causal)

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Rollout | None = None) -> Logits:
        layout = self._layout(tokens.grids[0])
        since = cache.rows if cache is not None else 0
        ids, _ = reading(tokens, layout, since)
        x = self._embedded(ids + self.words)
        if not since:
            x = F.pad(x, (0, 0, 1, 0))
        x = F.dropout(x + positions(since, x), self.dropout, self.training)
        masks = cache.masks if cache is not None else Masks(layout, tokens.device)
        keys, seen = keys_of(lambda: self._encoded(conditioning), self.blocks, cache), visible(conditioning)
        for i, block in enumerate(self.blocks):
            x = block(x, masks, cache.memories[i] if cache is not None else None, keys[i], seen)
        x = predicting(x, layout, cache)
        return Logits(x @ self.table.weight[self.words : self.words + self.codes].T)

    def _embedded(self, ids: Tensor) -> Tensor:
        return self.table(ids) * self.width**0.5

    def _encoded(self, conditioning: Conditioning) -> Tensor:
        """The prompt, B L D."""
        assert conditioning.prompt_ids is not None
        x = self._embedded(conditioning.prompt_ids)
        x, seen = F.dropout(x + positions(0, x), self.dropout, self.training), visible(conditioning)
        for layer in self.encoder:
            x = layer(x, seen)
        return x

    def new_cache(self, canvas: Tokens) -> Rollout | None:
        return Rollout(self._layout(canvas.grids[0]), self.depth, canvas.device) if self.causal else None

    def cache_bytes(self, canvas: Tokens) -> int:
        layout = self._layout(canvas.grids[0])
        return rollout_bytes(layout, self.depth, self.cached, len(canvas)) if self.causal else 0


def positions(since: int, x: Tensor) -> Tensor:
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i + 1) = cos of the same, from place `since` on for B R D."""
    width = x.shape[-1]
    place = torch.arange(since, since + x.shape[1], dtype=torch.float32, device=x.device)
    even = torch.arange(0, width, 2, dtype=torch.float32, device=x.device)
    angle = place[:, None] * 10000.0 ** (-even / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width].to(x.dtype)


class EncoderLayer(nn.Module):
    """LN(x + attention(x)), LN(x + mlp(x)) over a prompt."""

    def __init__(self, width: int, heads: int, key_width: int | None, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = ContextAttention(width, heads, key_width, bias=False)
        self.feed, self.dropout = feed_forward(width, hidden, nn.ReLU()), dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        x = self.norm1(x + self._dropped(self.attention(x, self.attention.keys(x), seen)))
        return self.norm2(x + self._dropped(self.feed(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class DecoderLayer(nn.Module):
    """The same with causal self-attention, and attention to the prompt after it."""

    def __init__(
        self, width: int, heads: int, key_width: int | None, hidden: int, dropout: float, pattern: Pattern
    ) -> None:
        super().__init__()
        self.attention = MaskedAttention(width, heads, pattern, key_width, bias=False)
        self.cross = ContextAttention(width, heads, key_width, bias=False)
        self.feed, self.dropout = feed_forward(width, hidden, nn.ReLU()), dropout
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, masks: Masks, memory: Memory | None, keys: Keys, seen: Tensor | None) -> Tensor:
        x = self.norm1(x + self._dropped(self.attention(x, masks, memory)))
        x = self.norm2(x + self._dropped(self.cross(x, keys, seen)))
        return self.norm3(x + self._dropped(self.feed(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
