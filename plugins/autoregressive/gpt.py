"""The `gpt` denoiser."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor, nn

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import ConditioningFact, Discrete, Regular, TokenFact
from mutoscope.core.layers.masked import Banded, Dense, Layout, MaskedAttention, Masks, Rollout
from mutoscope.core.process import TokenProcess
from mutoscope.core.settings import Depth, Heads, Natural, Positive, Share, Width
from mutoscope.core.values import Conditioning, Grid, Logits, Tokens
from mutoscope.plugins.autoregressive.blocks import Block, feed_forward, initialise
from mutoscope.plugins.autoregressive.stream import Told, check_room, predicting, reading, rollout_bytes


@final
class Gpt(TokenDenoiser):
    """The decoder of GPT-2 and GPT-3 over visual ids, in one stream after the prompt's features.

    Radford et al. 2019, sec. 2.3; Brown et al. 2020, sec. 2.1: pre-norm blocks, learned positions, one matrix for ids
    and softmax, residual branches initialised by depth; layers alternate dense and locally banded attention, dense
    first. The band and its parity are unpublished. A prompt is features of any conditioner, a row each; its padding has
    learned vectors, one per place. A pooled vector is the start row. Under an objective with holes the same network
    sees both ways.

    mlp: hidden width of the feed-forward layer over the width. band: rows that a row of every second layer sees, itself
    included; 0 makes all layers dense.
    """

    name = "gpt"
    paper = "Brown et al. 2020, arXiv:2005.14165"
    uses_known = True
    tiny = {"width": 32, "depth": 2, "heads": 2, "band": 7}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete, Regular],
        given: ConditioningFact,
        process: TokenProcess,
        *,
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 6,
        mlp: Positive = 4.0,
        band: Natural = 0,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        codes = tokens.codebook or 1  # what assembly refuses is built all the same
        self.causal, self.codes, self.width, self.depth = process.causal, codes, width, depth
        self.length = given.length if given.sequence else 0
        rows = self._layout(tokens.grid).rows
        self.table = nn.Embedding(codes + (process.hole is not None), width)
        self.places = nn.Parameter(0.01 * torch.randn(rows, width))
        self.told = Told(given, width, learned=False)
        self.prompt = nn.Linear(given.sequence, width) if self.length else None
        self.padding = nn.Parameter(0.02 * torch.randn(self.length, width)) if self.length else None
        self.blocks = nn.ModuleList(
            Block(
                lambda: nn.LayerNorm(width),
                MaskedAttention(width, heads, Banded(band) if band and i % 2 else Dense()),
                feed_forward(width, int(width * mlp), nn.GELU(approximate="tanh")),
                dropout=dropout,
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        initialise(self, depth)

    def _layout(self, grid: tuple[int, int, int]) -> Layout:
        return Layout(1 + self.length, Grid(*grid), self.causal)

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Rollout | None = None) -> Logits:
        layout = self._layout(tokens.grids[0])
        check_room(self.name, layout, len(self.places))
        since = cache.rows if cache is not None else 0
        x = self._rows(tokens, conditioning, layout, since)
        x = x + self.places[since : since + x.shape[1]] + self.told.frames(conditioning, layout, since, x.shape[1])
        masks = cache.masks if cache is not None else Masks(layout, tokens.device)
        for i, block in enumerate(self.blocks):
            x = block(x, masks, cache.memories[i] if cache is not None else None)
        x = self.norm(predicting(x, layout, cache))
        return Logits(x @ self.table.weight[: self.codes].T)

    def _rows(self, tokens: Tokens, conditioning: Conditioning, layout: Layout, since: int) -> Tensor:
        """What rows since, since + 1, ... read: the start, the prompt, ids."""
        ids, _ = reading(tokens, layout, since)
        read = self.table(ids)
        if since:
            return read
        first = [self.told.start(tokens, conditioning)]
        if self.prompt is not None and self.padding is not None and conditioning.sequence is not None:
            features = self.prompt(conditioning.sequence)
            if conditioning.mask is not None:
                features = torch.where(conditioning.mask[..., None], features, self.padding)
            first.append(features)
        return torch.cat([*first, read], dim=1)

    def new_cache(self, canvas: Tokens) -> Rollout | None:
        return Rollout(self._layout(canvas.grids[0]), self.depth, canvas.device) if self.causal else None

    def cache_bytes(self, canvas: Tokens) -> int:
        layout = self._layout(canvas.grids[0])
        return rollout_bytes(layout, self.depth, 2 * self.width, len(canvas)) if self.causal else 0
