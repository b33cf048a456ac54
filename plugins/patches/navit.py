"""NaViT: a transformer for clips of any size, packed; a tower with attention pooling, and a denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, ConditioningFact, Continuous, FeatureFact, TokenFact
from mutoscope.core.layers.attention import CrossAttention, scaled_attention
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.telling import Spread, Telling, of_each_row
from mutoscope.core.packing import pack
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Cube, Depth, Heads, Natural, Positive, Share, Width
from mutoscope.core.tower import Tower
from mutoscope.core.values import Conditioning, Features, Grid, Tokens

EPS = 1e-6
ROW = 2
"""Tokens of a row of the tower, in clips of the largest size."""

Kind = Literal["learned", "sinusoid", "fourier"]
Coordinates = Literal["absolute", "fractional"]
Combine = Literal["sum", "stack", "product"]


class Factorised(nn.Module):
    """Positions as one embedding per axis, put together. Dehghani et al. 2023, sec. 2.1, arXiv:2307.06304.

    coordinates: of rows and columns, the cell's number, or its place as a share of the clip's side, 0 at the first cell
    and 1 at the last, whatever the size; time is always counted in cells (ours). kind: `learned`, a table per axis,
    interpolated between its entries for shares; `sinusoid`, fixed; `fourier`, a linear layer, then sines and cosines.
    combine: the axes' embeddings are added, stacked (each of a part of the width) or multiplied.
    reach: cells per axis that the tables are made for; later ones are as the last.
    """

    def __init__(self, width: int, reach: Grid, kind: Kind, coordinates: Coordinates, combine: Combine) -> None:
        super().__init__()
        third = width // 6 * 2
        self.widths = (width - 2 * third, third, third) if combine == "stack" else (width, width, width)
        self.reach, self.kind, self.coordinates, self.combine = reach, kind, coordinates, combine
        if kind == "learned":
            middle = 1.0 if combine == "product" else 0.0
            self.tables = nn.ParameterList(
                middle + 0.02 * torch.randn(n, w) for n, w in zip(reach, self.widths, strict=True)
            )
        elif kind == "fourier":
            self.waves = nn.ModuleList(nn.Linear(1, w // 2) for w in self.widths)
            self.mixers = nn.ModuleList(nn.Linear(w // 2 * 2, w, bias=False) for w in self.widths)

    def forward(self, tokens: Tokens) -> Tensor:
        """B N width; 1 N width when regular."""
        places = tokens.positions[:1] if tokens.regular else tokens.positions
        coordinates = self._coordinates(tokens, places)
        axes = [self._axis(i, coordinates[..., i]) for i in range(3)]
        if self.combine == "stack":
            return torch.cat(axes, dim=-1)
        return axes[0] + axes[1] + axes[2] if self.combine == "sum" else axes[0] * axes[1] * axes[2]

    def _coordinates(self, tokens: Tokens, places: Tensor) -> Tensor:
        """Cells, or for rows and columns shares of the side, B N 3."""
        if self.coordinates == "absolute":
            return places
        sides = torch.tensor(tokens.grids, dtype=places.dtype).to(places.device)
        own = tokens.per_token(sides)[:1] if tokens.regular else tokens.per_token(sides)
        shares = places[..., 1:] / (own[..., 1:] - 1).clamp(min=1)
        return torch.cat([places[..., :1], shares], dim=-1)

    def _axis(self, axis: int, at: Tensor) -> Tensor:
        """The embedding of one axis, B N its width."""
        shares = self.coordinates == "fractional" and axis > 0
        if self.kind == "learned":
            table = self.tables[axis]
            index = (at * (len(table) - 1) if shares else at).clamp(0, len(table) - 1)
            low = index.floor().long()
            return torch.lerp(table[low], table[(low + 1).clamp(max=len(table) - 1)], (index - low)[..., None])
        if self.kind == "sinusoid":
            return sinusoid(at * self.reach[axis] if shares else at, self.widths[axis])
        wave = self.waves[axis](at[..., None] if shares else at[..., None] / self.reach[axis])
        return self.mixers[axis](torch.cat([wave.sin(), wave.cos()], dim=-1))


class Attention(nn.Module):
    """Self-attention without biases whose queries and keys are normalised (Dehghani et al. 2023, arXiv:2302.05442)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: {heads} heads do not divide a width of {width}")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.q_norm = nn.LayerNorm(width // heads, EPS, bias=False)
        self.k_norm = nn.LayerNorm(width // heads, EPS, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        mixed = scaled_attention(q.to(v.dtype), k.to(v.dtype), v, mask=mask)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Pre-norm block without biases."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, EPS, bias=False), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, EPS, bias=False), _mlp(width, hidden)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class ToldBlock(nn.Module):
    """The same, modulated by level and conditioning as DiT's adaLN-Zero, and asking a prompt in between."""

    def __init__(self, width: int, heads: int, hidden: int, context: int) -> None:
        super().__init__()
        self.width = width
        self.modulate = nn.Linear(width, 6 * width)
        self.attention, self.mlp = Attention(width, heads), _mlp(width, hidden)
        self.cross = CrossAttention(width, context, heads, bias=False) if context else None
        for tensor in (self.modulate.weight, self.modulate.bias, *([self.cross.out.weight] if self.cross else [])):
            nn.init.zeros_(tensor)

    def forward(
        self, x: Tensor, told: tuple[Tensor, ...], mask: Tensor | None, prompt: Tensor | None, sees: Tensor | None
    ) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = told
        x = x + gate_a * self.attention(F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale_a) + shift_a, mask)
        if self.cross is not None and prompt is not None:
            x = x + self.cross(x, prompt, sees)
        return x + gate_m * self.mlp(F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale_m) + shift_m)


class Pooling(nn.Module):
    """Attention pooling, one vector per clip: a learned probe asks the clip's own tokens (Zhai et al. 2022,
    arXiv:2106.04560, sec. 3.5)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.empty(width).normal_(std=width**-0.5))
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.out, self.norm = nn.Linear(width, width, bias=False), nn.LayerNorm(width, EPS, bias=False)
        self.mlp = _mlp(width, hidden)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """B N D to K D."""
        members = tokens.row_members()
        own = members[:, :, None] == tokens.clip[:, None]
        mask = (own | (members == 0)[..., None])[:, None]
        q = rearrange(self.q(self.probe.to(x.dtype)), "(h d) -> 1 h 1 d", h=self.heads)
        k, v = rearrange(self.kv(x), "b n (two h d) -> two b h n d", two=2, h=self.heads).unbind(0)
        q = q.expand(len(x), -1, members.shape[1], -1)
        pooled = scaled_attention(q.to(v.dtype), k, v, mask=mask)
        rows = self.out(rearrange(pooled, "b h e d -> (b e) (h d)"))
        # Where each clip stands among the rows' members.
        order = torch.arange(len(rows), device=x.device)
        place = torch.zeros(len(tokens) + 1, dtype=torch.long, device=x.device).scatter(0, members.flatten(), order)
        pooled = rows[place[1:]]
        return pooled + self.mlp(self.norm(pooled))


@final
class NavitTower(Tower):
    """Classifies clips of any size, aspect and duration, packed. Dehghani et al. 2023, arXiv:2307.06304.

    Takes B C T H W, or one C T H W per clip. No biases; normalised queries and keys; factorised positions; attention
    pooling over each clip's own tokens.

    patch: frames, rows, columns of pixels per token. drop: share of a clip's tokens that is left out in training.
    classes: of the head; by default the data's, 0 for no head. kind, coordinates, combine: of the positions, see
    `Factorised`.
    """

    name = "navit"
    paper = "Dehghani et al. 2023, arXiv:2307.06304"
    tiny = {"width": 16, "depth": 2, "heads": 2}  # noqa: RUF012
    packs = True

    def __init__(
        self,
        clip: ClipFact,
        *,
        patch: Cube = (1, 4, 4),
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 3,
        mlp: Positive = 4.0,
        drop: Share = 0.0,
        classes: Natural | None = None,
        kind: Kind = "learned",
        coordinates: Coordinates = "fractional",
        combine: Combine = "sum",
    ) -> None:
        super().__init__()
        if drop == 1.0:
            raise ValueError("drop: some tokens must be left")
        self.patch, self.width, self.drop = tuple(patch), width, drop
        self.grid = Grid(*(-(-n // p) for n, p in zip((clip.frames, *clip.size), patch, strict=True)))
        side = max(self.grid[1:])
        self.embed = nn.Linear(clip.channels * patch[0] * patch[1] * patch[2], width, bias=False)
        self.positions = Factorised(width, Grid(self.grid.frames, side, side), kind, coordinates, combine)
        self.blocks = nn.ModuleList(Block(width, heads, int(width * mlp)) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS, bias=False)
        self.pooling = Pooling(width, heads, int(width * mlp))
        count = clip.classes if classes is None else classes
        self.head = nn.Linear(width, count) if count else None
        _initialise(self)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def facts(self) -> tuple[FeatureFact, ...]:
        return (FeatureFact(self.width, self.grid, (self.patch[0], self.patch[1], self.patch[2])),)

    def forward(self, video: Tensor | Sequence[Tensor]) -> Features:
        return self.features(video)

    def features(self, video: Tensor | Sequence[Tensor], level: Tensor | None = None) -> Features:
        """Of B C T H W, or of one C T H W per clip, which gives no sequence."""
        tokens = self.tokens(video)
        x = self.embed(tokens.filled()) + self.positions(tokens)
        mask = tokens.attention_mask()
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        pooled = self.pooling(x, tokens)
        return Features(x if tokens.regular else None, pooled, None if self.head is None else self.head(pooled))

    def tokens(self, video: Tensor | Sequence[Tensor]) -> Tokens:
        """The clips' cubes of pixels, packed where sizes differ or tokens are dropped. Raises ShapeError."""
        grids = [self._grid(clip) for clip in video]
        drops = self.training and self.drop > 0
        if isinstance(video, Tensor) and not drops:
            return Tokens.canvas(grids[0], len(video), video.device).with_values(self._cut(video))
        cut, kept = [self._cut(clip) for clip in video], None
        if drops:
            kept = [self._kept(grid.cells) for grid in grids]
            cut = [x[torch.from_numpy(cells).to(x.device)] for x, cells in zip(cut, kept, strict=True)]
        return pack(grids, ROW * self.grid.cells, kept, cut[0].device).fill(cut)

    def _kept(self, cells: int) -> np.ndarray:
        """Cells that stay, by torch's generator, which a training step seeds."""
        left = max(1, round(cells * (1 - self.drop)))
        return np.sort(torch.randperm(cells, device="cpu")[:left].numpy())

    def _grid(self, clip: Tensor) -> Grid:
        if any(n % p for n, p in zip(clip.shape[-3:], self.patch, strict=True)):
            raise ShapeError(f"a clip of {tuple(clip.shape[-3:])} does not divide into patches of {self.patch}")
        return Grid(*(n // p for n, p in zip(clip.shape[-3:], self.patch, strict=True)))

    def _cut(self, clip: Tensor) -> Tensor:
        t, h, w = self.patch
        return rearrange(clip, "... c (t i) (h j) (w k) -> ... (t h w) (c i j k)", i=t, j=h, k=w)


@final
class NavitDenoiser(LevelDenoiser):
    """Denoises clips of any size, aspect and duration, packed or not. Dehghani et al. 2023, arXiv:2307.06304.

    Ours, as the paper classifies: level and pooled conditioning modulate every block as in DiT (adaLN-Zero), a prompt
    is asked by cross-attention within the clip, and the output is zero at first.

    kind, coordinates, combine: of the positions, see `Factorised`.
    """

    name = "navit"
    paper = "Dehghani et al. 2023, arXiv:2307.06304"
    uses_known = True
    tiny = {"width": 16, "depth": 2, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 6,
        mlp: Positive = 4.0,
        kind: Kind = "learned",
        coordinates: Coordinates = "fractional",
        combine: Combine = "sum",
    ) -> None:
        super().__init__()
        self.width, side = width, max(tokens.grid[1:])
        self.embed = nn.Linear(tokens.width, width, bias=False)
        self.positions = Factorised(width, Grid(tokens.grid.frames, side, side), kind, coordinates, combine)
        self.telling = Telling(given, width)
        self.blocks = nn.ModuleList(ToldBlock(width, heads, int(width * mlp), given.sequence) for _ in range(depth))
        self.modulate = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, process.output_width(tokens))
        for layer in (self.modulate, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        x = self.embed(tokens.filled())
        x, mask = x + self.positions(tokens).to(x.dtype), tokens.attention_mask()
        c, clean = self.telling(level, conditioning), None
        if conditioning.known is not None:
            clean = self.telling(torch.zeros_like(level), conditioning)
        prompt, sees, spread = conditioning.sequence, None, Spread(tokens, conditioning)
        if prompt is not None:
            prompt, sees = of_each_row(tokens, prompt, conditioning.mask)
        for block in self.blocks:
            x = block(x, spread(block.modulate, c, clean).chunk(6, dim=-1), mask, prompt, sees)  # type: ignore[arg-type]
        shift, scale = spread(self.modulate, c, clean).chunk(2, dim=-1)
        return self.out(F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale) + shift)


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden, bias=False), nn.GELU("tanh"), nn.Linear(hidden, width, bias=False))


def _initialise(module: nn.Module) -> None:
    for member in module.modules():
        if isinstance(member, nn.Linear):
            nn.init.xavier_uniform_(member.weight)
