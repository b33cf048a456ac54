"""The `videogpt` denoiser."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import ConditioningFact, Discrete, Regular, TokenFact
from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.masked import (
    Dense,
    Layout,
    MaskedAttention,
    Masks,
    Memory,
    Rollout,
    dividing,
    per_head,
)
from mutoscope.core.process import TokenProcess
from mutoscope.core.settings import Depth, Heads, Share, Width
from mutoscope.core.values import Conditioning, Grid, Logits, Tokens
from mutoscope.plugins.autoregressive.blocks import Keys, SigmoidGelu, feed_forward
from mutoscope.plugins.autoregressive.stream import Told, check_grid, predicting, reading, rollout_bytes


@final
class Videogpt(TokenDenoiser):
    """The prior of VideoGPT over the codes of a 3-D VQ-VAE. Yan et al. 2021, sec. 3.2, arXiv:2104.10157.

    It reads the code *vectors* of the autoencoder through a linear layer without bias, and learns no table of ids: it
    adopts the codebook before its phase. A learned start, positions of time, rows and columns side by side, x
    sigmoid(1.702 x), an output without bias that is zero at first. A pooled vector conditions the norms (gain
    1 + W c, bias W c, without biases of their own); a sequence, such as features of first frames, is attended to.
    Codes without vectors get fixed random ones. Under an objective with holes a hole reads as a learned vector.

    mlp: hidden width of the feed-forward layer over the width.
    """

    name = "videogpt"
    paper = "Yan et al. 2021, arXiv:2104.10157"
    uses_known = True
    tiny = {"width": 36, "depth": 2, "heads": 2}  # noqa: RUF012
    codes: Tensor

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete, Regular],
        given: ConditioningFact,
        process: TokenProcess,
        *,
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 4,
        mlp: Width = 4,
        dropout: Share = 0.2,
    ) -> None:
        super().__init__()
        codes = tokens.codebook or 1  # what assembly refuses is built all the same
        if width % 3:
            raise ValueError(f"width: positions of three axes stand side by side, so it divides by 3; got {width}")
        self.causal, self.width, self.depth, self.dropout = process.causal, width, depth, dropout
        self.register_buffer("codes", torch.randn(codes, tokens.channels))
        self.read = nn.Linear(tokens.channels, width, bias=False)
        self.hole = nn.Parameter(0.02 * torch.randn(width)) if process.hole is not None else None
        self.told = Told(ConditioningFact(per_frame=given.per_frame), width)
        self.places = nn.ParameterList(nn.Parameter(0.01 * torch.randn(n, width // 3)) for n in tokens.grid)
        self.blocks = nn.ModuleList(
            PriorBlock(width, heads, mlp * width, given.pooled, given.sequence, depth, dropout) for _ in range(depth)
        )
        self.norm = ToldNorm(width, given.pooled)
        self.out = nn.Linear(width, codes, bias=False)
        nn.init.normal_(self.read.weight, std=0.02)
        nn.init.zeros_(self.out.weight)

    @torch.no_grad()
    def adopt(self, codes: Tensor) -> None:
        if codes.shape == self.codes.shape:
            self.codes.copy_(codes)

    def _layout(self, grid: tuple[int, int, int]) -> Layout:
        return Layout(1, Grid(*grid), self.causal)

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Rollout | None = None) -> Logits:
        layout = self._layout(tokens.grids[0])
        check_grid(self.name, layout.grid, tuple(len(t) for t in self.places))  # type: ignore[arg-type]
        since = cache.rows if cache is not None else 0
        ids, _ = reading(tokens, layout, since)
        x = self._read(ids)
        if not since:
            x = torch.cat([self.told.start(tokens, conditioning), x], dim=1)
        x = x + self._positions(layout)[since : since + x.shape[1]]
        x = x + self.told.frames(conditioning, layout, since, x.shape[1])
        x = F.dropout(x, self.dropout, self.training)
        masks = cache.masks if cache is not None else Masks(layout, tokens.device)
        keys = self._keys(conditioning, cache)
        seen = None if conditioning.mask is None else conditioning.mask[:, None, None]
        c = conditioning.pooled
        for i, block in enumerate(self.blocks):
            x = block(x, c, masks, cache.memories[i] if cache is not None else None, keys[i] if keys else None, seen)
        return Logits(self.out(self.norm(predicting(x, layout, cache), c)))

    def _read(self, ids: Tensor) -> Tensor:
        if self.hole is None:
            return self.read(F.embedding(ids, self.codes))
        read = self.read(F.embedding(ids.clamp(max=len(self.codes) - 1), self.codes))
        return torch.where((ids < len(self.codes))[..., None], read, self.hole)

    def _positions(self, layout: Layout) -> Tensor:
        """R D: of the cell that a causal row predicts, else of the one it reads; the start row of those that see both
        ways stands at the first cell."""
        t, h, w = layout.grid
        axes = [table[:n] for table, n in zip(self.places, (t, h, w), strict=True)]
        width = self.width // 3
        whole = torch.cat(
            [
                axes[0][:, None, None].expand(t, h, w, width),
                axes[1][None, :, None].expand(t, h, w, width),
                axes[2][None, None].expand(t, h, w, width),
            ],
            dim=-1,
        ).reshape(-1, self.width)
        return whole if layout.causal else torch.cat([whole[:1], whole])

    def _keys(self, conditioning: Conditioning, cache: Rollout | None) -> list[Keys] | None:
        """Keys and values of the context for every block, made once a rollout."""
        if conditioning.sequence is None:
            return None
        if cache is not None and cache.told is not None:
            return cache.told
        keys = [block.cross.keys(conditioning.sequence) for block in self.blocks if block.cross is not None]  # type: ignore[union-attr, operator]
        if cache is not None:
            cache.told = keys
        return keys

    def new_cache(self, canvas: Tokens) -> Rollout | None:
        return Rollout(self._layout(canvas.grids[0]), self.depth, canvas.device) if self.causal else None

    def cache_bytes(self, canvas: Tokens) -> int:
        layout = self._layout(canvas.grids[0])
        return rollout_bytes(layout, self.depth, 2 * self.width, len(canvas)) if self.causal else 0


class ToldNorm(nn.Module):
    """Layer norm whose gain and bias a vector gives, where there is one."""

    def __init__(self, width: int, given: int) -> None:
        super().__init__()
        self.width = width
        self.gain = nn.Linear(given, width, bias=False) if given else nn.Parameter(torch.ones(width))
        self.bias = nn.Linear(given, width, bias=False) if given else nn.Parameter(torch.zeros(width))
        for part in (self.gain, self.bias):
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        if isinstance(self.gain, Tensor) or c is None:
            gain = self.gain if isinstance(self.gain, Tensor) else None
            return F.layer_norm(x, (self.width,), gain, self.bias if isinstance(self.bias, Tensor) else None)
        h = F.layer_norm(x, (self.width,))
        return h * (1 + self.gain(c)[:, None]) + self.bias(c)[:, None]  # type: ignore[operator]


class Looking(nn.Module):
    """Cross-attention whose keys are as wide as the rows, and whose values as the context (the released code)."""

    def __init__(self, width: int, context: int, heads: int, depth: int) -> None:
        super().__init__()
        dividing(heads, width)
        dividing(heads, context)
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = nn.Linear(context, width, bias=False), nn.Linear(context, context, bias=False)
        self.out = nn.Linear(context, width)
        for layer in (self.q, self.k, self.v):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.normal_(self.out.weight, std=(width * depth) ** -0.5)

    def keys(self, context: Tensor) -> Keys:
        """B L D to keys and values, B H L d each."""
        return per_head(self.k(context), self.heads), per_head(self.v(context), self.heads)

    def forward(self, x: Tensor, keys: Keys, mask: Tensor | None = None) -> Tensor:
        """B R D. mask: true where attention is allowed."""
        seen = scaled_attention(per_head(self.q(x), self.heads), *keys, mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2))


class PriorBlock(nn.Module):
    """Pre-norm: causal attention, cross-attention where there is a context, an MLP. Biases at the ends only."""

    def __init__(
        self, width: int, heads: int, hidden: int, given: int, context: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.before, self.attention = (
            ToldNorm(width, given),
            MaskedAttention(width, heads, Dense(), bias=False, out_bias=True),
        )
        self.between = ToldNorm(width, given) if context else None
        self.cross = Looking(width, context, heads, depth) if context else None
        self.after, self.feed = ToldNorm(width, given), feed_forward(width, hidden, SigmoidGelu())
        nn.init.normal_(self.attention.qkv.weight, std=width**-0.5)
        nn.init.normal_(self.attention.out.weight, std=(width * depth) ** -0.5)

    def forward(
        self, x: Tensor, c: Tensor | None, masks: Masks, memory: Memory | None, keys: Keys | None, seen: Tensor | None
    ) -> Tensor:
        x = x + self._dropped(self.attention(self.before(x, c), masks, memory))
        if self.cross is not None and self.between is not None and keys is not None:
            x = x + self._dropped(self.cross(self.between(x, c), keys, seen))
        return x + self._dropped(self.feed(self.after(x, c)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
