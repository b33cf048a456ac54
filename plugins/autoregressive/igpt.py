"""The `igpt` denoiser."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor, nn

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import ConditioningFact, Discrete, Regular, TokenFact
from mutoscope.core.layers.masked import Dense, Layout, MaskedAttention, Masks, Rollout
from mutoscope.core.process import TokenProcess
from mutoscope.core.settings import Depth, Heads, Width
from mutoscope.core.values import Conditioning, Grid, Logits, Tokens
from mutoscope.plugins.autoregressive.blocks import Block, SigmoidGelu, feed_forward, initialise
from mutoscope.plugins.autoregressive.stream import Told, check_room, predicting, reading, rollout_bytes


@final
class Igpt(TokenDenoiser):
    """Image GPT: pixels as words. Chen et al. 2020, sec. 2, Generative Pretraining from Pixels.

    GPT-2's order of norms, with root-mean-square norms that have a gain only, no biases, x sigmoid(1.702 x), learned
    positions, a learned start, and an output matrix of its own that is zero at first, so that an untrained model gives
    every id the same probability. Under an objective with holes it is the paper's BERT mode: both ways, and a hole
    reads as zero. What is said of a clip, which the paper does not have, is added to the start.
    """

    name = "igpt"
    paper = "Chen et al. 2020, Generative Pretraining from Pixels"
    uses_known = True
    tiny = {"width": 32, "depth": 2, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete, Regular],
        given: ConditioningFact,
        process: TokenProcess,
        *,
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 6,
    ) -> None:
        super().__init__()
        codes = tokens.codebook or 1  # what assembly refuses is built all the same
        self.causal, self.codes, self.width, self.depth = process.causal, codes, width, depth
        self.table = nn.Embedding(codes, width)
        self.places = nn.Parameter(0.01 * torch.randn(self._layout(tokens.grid).rows, width))
        self.told = Told(given, width, pooling=True)
        self.blocks = nn.ModuleList(
            Block(
                lambda: nn.RMSNorm(width, eps=1e-5),
                MaskedAttention(width, heads, Dense(), bias=False),
                feed_forward(width, 4 * width, SigmoidGelu(), bias=False),
            )
            for _ in range(depth)
        )
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.out = nn.Linear(width, codes, bias=False)
        initialise(self, depth)
        nn.init.zeros_(self.out.weight)

    def _layout(self, grid: tuple[int, int, int]) -> Layout:
        return Layout(1, Grid(*grid), self.causal)

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Rollout | None = None) -> Logits:
        layout = self._layout(tokens.grids[0])
        check_room(self.name, layout, len(self.places))
        since = cache.rows if cache is not None else 0
        ids, _ = reading(tokens, layout, since)
        x = self._read(ids)
        if not since:
            x = torch.cat([self.told.start(tokens, conditioning), x], dim=1)
        x = x + self.places[since : since + x.shape[1]] + self.told.frames(conditioning, layout, since, x.shape[1])
        masks = cache.masks if cache is not None else Masks(layout, tokens.device)
        for i, block in enumerate(self.blocks):
            x = block(x, masks, cache.memories[i] if cache is not None else None)
        return Logits(self.out(self.norm(predicting(x, layout, cache))))

    def _read(self, ids: Tensor) -> Tensor:
        if self.causal:
            return self.table(ids)
        return self.table(ids.clamp(max=self.codes - 1)) * (ids < self.codes)[..., None]

    def new_cache(self, canvas: Tokens) -> Rollout | None:
        return Rollout(self._layout(canvas.grids[0]), self.depth, canvas.device) if self.causal else None

    def cache_bytes(self, canvas: Tokens) -> int:
        layout = self._layout(canvas.grids[0])
        return rollout_bytes(layout, self.depth, 2 * self.width, len(canvas)) if self.causal else 0
