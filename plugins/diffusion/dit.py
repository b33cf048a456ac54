"""DiT over space-time tokens, with the four blocks of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, TokenFact
from mutoscope.core.layers.attention import CrossAttention, SelfAttention
from mutoscope.core.layers.embeddings import sincos_plane, sincos_positions, sinusoid
from mutoscope.core.layers.rotary import Rotation, rotation
from mutoscope.core.layers.telling import Spread, of_each_row, of_frames, pooled_to
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Depth, Heads, Positive, Width
from mutoscope.core.values import Conditioning, Tokens

EPS = 1e-6
"""Of every layer norm."""


@final
class Dit(LevelDenoiser):
    """Diffusion transformer over space-time tokens. Peebles & Xie 2023, sec. 3, arXiv:2212.09748.

    Attention is joint over space and time. With a pooled vector of its own width, no sequence and positions `plane` it
    is the paper's DiT. Known clean tokens are told that they are at level 0.

    block: how level and pooled vector enter a block, fig. 3 and sec. 3.2. `adaln_zero` regresses shift, scale and a
    gate of each half of a block from their sum, and starts as the identity; `adaln` regresses shift and scale alone;
    `cross` attends to the two as a sequence; `context` takes them as two further tokens.
    prompt: how a sequence of prompt features enters, with the first two blocks: by cross-attention (in the place that
    PixArt gives it, Chen et al. 2023, arXiv:2310.00426) or in context, as further tokens. In the blocks `cross` and
    `context` it goes where the level goes.
    mlp: hidden width of the feed-forward layer over the width. positions: `rotary`, fixed `sincos` over (t, y, x), or
    the paper's fixed table over (y, x), `plane`.
    """

    name = "dit"
    paper = "Peebles & Xie 2023, arXiv:2212.09748"
    uses_known = True
    tiny = {"width": 32, "depth": 2, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 384,
        depth: Depth = 12,
        heads: Heads = 6,
        mlp: Positive = 4.0,
        block: Literal["adaln_zero", "adaln", "cross", "context"] = "adaln_zero",
        positions: Literal["rotary", "sincos", "plane"] = "rotary",
        prompt: Literal["cross", "context"] = "cross",
    ) -> None:
        super().__init__()
        self.modulated = block in ("adaln_zero", "adaln")
        way = prompt if self.modulated else block
        self.in_context = way == "context" and (given.sequence > 0 or not self.modulated)
        _check(width, heads, positions, self.in_context and tokens.packed, "block" if not self.modulated else "prompt")
        self.width, self.positions, self.head_width = width, positions, width // heads
        self.cells, self.patch = given.cells, tokens.patch
        self.embed = nn.Linear(tokens.width + given.cells * tokens.patch[0] * tokens.patch[1] * tokens.patch[2], width)
        self.level = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = pooled_to(given, width)
        joined = given.sequence > 0 and (self.in_context or not self.modulated)
        self.context = nn.Linear(given.sequence, width) if joined else None
        self.per_frame = nn.Linear(given.per_frame, width, bias=False) if given.per_frame else None
        self.clean = nn.Parameter(torch.empty(width)) if given.known and not self.modulated else None
        hidden, cross = int(width * mlp), given.sequence if way == "cross" else 0
        made = {
            "adaln_zero": lambda: AdaLnZero(width, heads, hidden, cross),
            "adaln": lambda: AdaLn(width, heads, hidden, cross),
            "cross": lambda: Cross(width, heads, hidden),
            "context": lambda: Plain(width, heads, hidden),
        }[block]
        self.blocks = nn.ModuleList(made() for _ in range(depth))
        self.modulate = nn.Linear(width, 2 * width) if self.modulated else None
        self.norm = None if self.modulated else nn.LayerNorm(width, EPS)
        self.out = nn.Linear(width, process.output_width(tokens))
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for linear layers, N(0, .02) for the level, zero for every modulation and the output (sec. 3.2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.level[0], self.level[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        if self.clean is not None:
            nn.init.normal_(self.clean, std=0.02)
        for block in self.blocks:
            _silence(*block.silent())  # type: ignore[operator]
        _silence(self.out, *([self.modulate] if self.modulate is not None else []))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        x = self.embed(self._with_cells(tokens, conditioning))
        if self.per_frame is not None and conditioning.per_frame is not None:
            x = x + of_frames(tokens, self.per_frame(conditioning.per_frame))
        if self.clean is not None and conditioning.known is not None:
            x = x + conditioning.known.where[..., None] * self.clean
        by, places = None, tokens.positions[:1] if tokens.regular else tokens.positions
        if self.positions == "rotary":
            by = rotation(places, self.head_width)
        else:
            x = x + (sincos_positions if self.positions == "sincos" else sincos_plane)(places, self.width).to(x.dtype)
        told, before = self._told(tokens, level, conditioning, by), 0
        if self.in_context and told.sequence is not None:
            before = told.sequence.shape[1]
            x, told = torch.cat([told.sequence, x], dim=1), told.in_context(x.shape[1], tokens, conditioning)
        for block in self.blocks:
            x = block(x, told)
        x = self._normed(x, told)
        return self.out(x[:, before:])

    def _normed(self, x: Tensor, told: Told) -> Tensor:
        """The last norm, modulated where the blocks are."""
        if self.modulate is None:
            assert self.norm is not None
            return self.norm(x)
        shift, scale = told.modulation(self.modulate, 2)
        return F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale) + shift

    def _told(self, tokens: Tokens, level: Tensor, conditioning: Conditioning, by: Rotation | None) -> Told:
        """What every block is told."""
        at, pooled = self._level(level), None
        if self.pooled is not None and conditioning.pooled is not None:
            pooled = self.pooled(conditioning.pooled)
        features, real = conditioning.sequence, conditioning.mask
        if self.context is not None and features is not None:
            features = self.context(features)
        c = clean = None
        if self.modulated:
            c = F.silu(at if pooled is None else at + pooled)
            if conditioning.known is not None:
                zero = self._level(torch.zeros_like(level))
                clean = F.silu(zero if pooled is None else zero + pooled)
        else:
            features, real = _with_vectors([at] if pooled is None else [at, pooled], features, real)
        sequence, sees = (None, None) if features is None else of_each_row(tokens, features, real)
        return Told(c, clean, Spread(tokens, conditioning), tokens.attention_mask(), by, sequence, sees)

    def _level(self, level: Tensor) -> Tensor:
        return self.level(sinusoid(level, 256).to(self.level[0].weight.dtype))  # type: ignore[arg-type]

    def _with_cells(self, tokens: Tokens, conditioning: Conditioning) -> Tensor:
        """Tokens with the conditioning of their latent cells beside them."""
        x = tokens.filled()
        if not self.cells or conditioning.cells is None:
            return x
        t, h, w = self.patch
        cells = rearrange(conditioning.cells, "b c (t i) (h j) (w k) -> b (t h w) (c i j k)", i=t, j=h, k=w)
        return torch.cat([x, cells.to(x.dtype)], dim=-1)


@dataclass(frozen=True)
class Told:
    """What every block of a forward pass is told.

    c: K D, the modulating vector of each clip, after its activation; clean: the same at level 0, where tokens are
    known; both None where nothing is modulated. mask: who attends to whom. by: the rotation of positions. sequence:
    B L D, features to attend to, and sees, the mask B 1 1 L or B 1 N L.
    """

    c: Tensor | None
    clean: Tensor | None
    spread: Spread
    mask: Tensor | None
    by: Rotation | None
    sequence: Tensor | None
    sees: Tensor | None

    def modulation(self, layer: nn.Module, parts: int) -> tuple[Tensor, ...]:
        """What a layer makes of the modulating vectors, for every token, in so many parts."""
        assert self.c is not None
        return self.spread(layer, self.c, self.clean).chunk(parts, dim=-1)

    def in_context(self, tokens: int, rows: Tokens, conditioning: Conditioning) -> Told:
        """The same with the sequence before the tokens: mask and rotation are widened to it."""
        assert self.sequence is not None
        length, by = self.sequence.shape[1], self.by
        mask = None if self.sees is None else F.pad(self.sees, (0, tokens), value=True)
        if by is not None:
            by = F.pad(by[0], (0, 0, length, 0), value=1.0), F.pad(by[1], (0, 0, length, 0))
        return Told(self.c, self.clean, Spread(rows, conditioning, length), mask, by, None, None)


class AdaLnZero(nn.Module):
    """Self-attention, optionally cross-attention, and an MLP: shift, scale and gate around the first and the last."""

    def __init__(self, width: int, heads: int, hidden: int, context: int) -> None:
        super().__init__()
        self.width = width
        self.modulate = nn.Linear(width, 6 * width)
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, context, heads) if context else None
        self.mlp = _mlp(width, hidden)

    def silent(self) -> list[nn.Linear]:
        """Layers whose zeros make the block the identity."""
        return [self.modulate, *([self.cross.out] if self.cross is not None else [])]

    def forward(self, x: Tensor, told: Told) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = told.modulation(self.modulate, 6)
        h = F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale_a) + shift_a
        x = x + gate_a * self.attention(h, told.mask, told.by)
        if self.cross is not None and told.sequence is not None:
            x = x + self.cross(x, told.sequence, told.sees)
        h = F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale_m) + shift_m
        return x + gate_m * self.mlp(h)


class AdaLn(nn.Module):
    """As AdaLnZero without gates: it starts as a plain transformer block."""

    def __init__(self, width: int, heads: int, hidden: int, context: int) -> None:
        super().__init__()
        self.width = width
        self.modulate = nn.Linear(width, 4 * width)
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, context, heads) if context else None
        self.mlp = _mlp(width, hidden)

    def silent(self) -> list[nn.Linear]:
        return [self.modulate, *([self.cross.out] if self.cross is not None else [])]

    def forward(self, x: Tensor, told: Told) -> Tensor:
        shift_a, scale_a, shift_m, scale_m = told.modulation(self.modulate, 4)
        h = F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale_a) + shift_a
        x = x + self.attention(h, told.mask, told.by)
        if self.cross is not None and told.sequence is not None:
            x = x + self.cross(x, told.sequence, told.sees)
        h = F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale_m) + shift_m
        return x + self.mlp(h)


class Cross(nn.Module):
    """A pre-norm block with cross-attention to what is told, after self-attention (fig. 3, third from the left)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, EPS), SelfAttention(width, heads)
        self.norm2, self.cross = nn.LayerNorm(width, EPS), CrossAttention(width, width, heads)
        self.norm3, self.mlp = nn.LayerNorm(width, EPS), _mlp(width, hidden)

    def silent(self) -> list[nn.Linear]:
        return []

    def forward(self, x: Tensor, told: Told) -> Tensor:
        assert told.sequence is not None
        x = x + self.attention(self.norm1(x), told.mask, told.by)
        x = x + self.cross(self.norm2(x), told.sequence, told.sees)
        return x + self.mlp(self.norm3(x))


class Plain(nn.Module):
    """The pre-norm block of ViT, which has no place for conditioning: it is among the tokens."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, EPS), SelfAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, EPS), _mlp(width, hidden)

    def silent(self) -> list[nn.Linear]:
        return []

    def forward(self, x: Tensor, told: Told) -> Tensor:
        x = x + self.attention(self.norm1(x), told.mask, told.by)
        return x + self.mlp(self.norm2(x))


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


def _silence(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _check(width: int, heads: int, positions: str, packed_context: bool, setting: str) -> None:
    """Raises ValueError on settings that do not go together."""
    if positions == "rotary" and width // heads % 2:
        raise ValueError(
            f"heads: rotary positions need an even head width; {width} over {heads} heads is {width // heads}"
        )
    if packed_context:
        raise ValueError(f"{setting}: packed tokens cannot have what they are told in context; use cross")


def _with_vectors(vectors: list[Tensor], features: Tensor | None, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Vectors, each K D, before a sequence of features K L D, and the mask of both."""
    stacked = torch.stack(vectors, dim=1)
    if features is None:
        return stacked, None
    mask = None if real is None else F.pad(real, (len(vectors), 0), value=True)
    return torch.cat([stacked, features], dim=1), mask
