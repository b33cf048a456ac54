"""The `parti` denoiser."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import nn

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import ConditioningFact, Discrete, Prompted, Regular, TokenFact
from mutoscope.core.layers.masked import ContextAttention, Layout, MaskedAttention, Masks, Rollout, WindowPattern
from mutoscope.core.process import TokenProcess
from mutoscope.core.settings import Count, Depth, Heads, Share, Width
from mutoscope.core.values import Conditioning, Grid, Logits, Tokens
from mutoscope.plugins.autoregressive.blocks import Block, feed_forward, initialise
from mutoscope.plugins.autoregressive.encoding import PromptEncoder, keys_of, visible
from mutoscope.plugins.autoregressive.stream import (
    GridPositions,
    Told,
    check_grid,
    predicting,
    reading,
    rollout_bytes,
)


@final
class Parti(TokenDenoiser):
    """A sequence-to-sequence model of prompts and visual ids. Yu et al. 2022, sec. 2.2, arXiv:2206.10789.

    A transformer encodes the prompt; the decoder sees earlier ids within a window, as a masked convolution does, and
    all of the prompt. Both stacks end in a norm; the feed-forward layer is four times as wide and has two matrices.
    Features come from any conditioner that gives a sequence. In a video the window looks into every earlier frame.

    encoder, depth: blocks of the encoder and of the decoder. window: cells on a side.
    """

    name = "parti"
    paper = "Yu et al. 2022, arXiv:2206.10789"
    uses_known = True
    tiny = {"width": 32, "encoder": 1, "depth": 2, "heads": 2, "window": 3}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete, Regular],
        given: Annotated[ConditioningFact, Prompted],
        process: TokenProcess,
        *,
        width: Width = 192,
        encoder: Depth = 2,
        depth: Depth = 6,
        heads: Heads = 6,
        window: Count = 11,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        codes = tokens.codebook or 1  # what assembly refuses is built all the same
        self.causal, self.width, self.depth = process.causal, width, depth
        self.encoder = PromptEncoder(given, width, encoder, heads, lambda: nn.LayerNorm(width), nn.GELU)
        self.table = nn.Embedding(codes + (process.hole is not None), width)
        self.told = Told(ConditioningFact(per_frame=given.per_frame), width)
        self.places = GridPositions(tokens.grid, width)
        self.blocks = nn.ModuleList(
            Block(
                lambda: nn.LayerNorm(width),
                MaskedAttention(width, heads, WindowPattern(window)),
                feed_forward(width, 4 * width, nn.GELU()),
                ContextAttention(width, heads),
                dropout,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, codes)
        initialise(self, depth)

    def _layout(self, grid: tuple[int, int, int]) -> Layout:
        return Layout(1, Grid(*grid), self.causal)

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Rollout | None = None) -> Logits:
        layout = self._layout(tokens.grids[0])
        check_grid(self.name, layout.grid, self.places.most)  # type: ignore[arg-type]
        since = cache.rows if cache is not None else 0
        ids, cells = reading(tokens, layout, since)
        x = self.table(ids) + self.places(cells, layout)
        if not since:
            x = torch.cat([self.told.start(tokens, conditioning), x], dim=1)
        x = x + self.told.frames(conditioning, layout, since, x.shape[1])
        masks = cache.masks if cache is not None else Masks(layout, tokens.device)
        keys, seen = keys_of(lambda: self.encoder(conditioning), self.blocks, cache), visible(conditioning)
        for i, block in enumerate(self.blocks):
            x = block(x, masks, cache.memories[i] if cache is not None else None, keys[i], seen)
        return Logits(self.out(self.norm(predicting(x, layout, cache))))

    def new_cache(self, canvas: Tokens) -> Rollout | None:
        return Rollout(self._layout(canvas.grids[0]), self.depth, canvas.device) if self.causal else None

    def cache_bytes(self, canvas: Tokens) -> int:
        layout = self._layout(canvas.grids[0])
        return rollout_bytes(layout, self.depth, 2 * self.width, len(canvas)) if self.causal else 0
