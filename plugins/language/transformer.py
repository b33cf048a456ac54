"""A small language model that goes on from vectors, from ids, or from both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.errors import InputError
from mutoscope.core.layers.attention import SelfAttention
from mutoscope.core.layers.vocabulary import PADDING, Vocabulary
from mutoscope.core.randomness import Draw


class LanguageModel(nn.Module):
    """A causal transformer over pieces of text; one matrix for ids and softmax. Radford et al. 2019, sec. 2.3.

    words: the vocabulary. length: rows, those of a prefix of vectors included.
    """

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(field="heads", problem=f"must divide the width {width}", got=heads)
        self.words, self.length = Vocabulary(vocabulary), length
        self.table = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.table.weight, std=0.1)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor, prefix: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the id after each one, B L V, and the states that they are read from, B L D. prefix: B P D."""
        x = self.table(ids)
        if prefix is not None:
            x = torch.cat([prefix, x], dim=1)
        rows = x.shape[1]
        x = x + self.places[:rows]
        mask = torch.ones(rows, rows, dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x = block(x, mask)
        states = self.norm(x[:, rows - ids.shape[1] :])
        return states @ self.table.weight.T, states

    def nll(self, ids: Tensor, told: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Negative log-likelihood in nats per id, the mean over the ids that are not padding and not told already.

        told: B, how many ids at the beginning are given and not learned.
        """
        logits, _ = self(ids[:, :-1], prefix)
        place = torch.arange(1, ids.shape[1], device=ids.device)
        counts = (ids[:, 1:] != PADDING) & (place >= told[:, None])
        each = F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
        return (each * counts).sum() / counts.sum().clamp(min=1)

    @torch.no_grad()
    def written(
        self,
        begun: Sequence[Sequence[int]],
        prefix: Tensor | None,
        draw: Draw,
        temperature: float,
        most: int,
    ) -> list[list[int]]:
        """What follows ids that are begun, up to the end: ids of each row.

        temperature: of the softmax, 0 takes the likeliest. most: ids of a row, begun ones included.
        """
        device = self.table.weight.device
        first = 0 if prefix is None else prefix.shape[1]
        most = min(most, self.length - first)
        rows = [list(row[:most]) for row in begun]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        ids = torch.full((len(rows), most), PADDING, device=device)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, device=device)
        uniform = draw.uniform("text", most).to(device)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
        for n in range(int(lengths.min()), most):
            if bool((ended | (lengths > n)).all()) and not bool((lengths > n).any()):
                break
            logits = self(ids[:, :n], prefix)[0][:, -1].float()
            logits[:, [PADDING, self.words.start]] = -torch.inf
            logits = self._only_words(logits)
            if temperature == 0:
                new = logits.argmax(dim=1)
            else:
                share = (logits / temperature).softmax(dim=1).cumsum(dim=1)
                new = torch.searchsorted(share, uniform[:, n : n + 1] * share[:, -1:]).squeeze(1)
                new = new.clamp(max=logits.shape[1] - 1)
            new = torch.where(ended, PADDING, new)
            ids[:, n] = torch.where(lengths > n, ids[:, n], new)
            ended = ended | ((ids[:, n] == self.words.end) & (lengths <= n))
        return [row[count:] for row, count in zip(ids.tolist(), lengths.tolist(), strict=True)]

    def _only_words(self, logits: Tensor) -> Tensor:
        """Without the ids of pieces that the vocabulary has no use for."""
        if self.words.whole:
            return logits
        used = self.words.pieces >= 0
        used[: PADDING + 513] = True
        used[self.words.end] = True
        return logits.masked_fill(~used, -torch.inf)


class Block(nn.Module):
    """Attention and a feed-forward layer, each with its norm before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def padded(rows: Sequence[Sequence[int]], device: torch.device | str) -> Tensor:
    """Rows of ids as one tensor, B L."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PADDING] * (longest - len(row))] for row in rows], device=device)
