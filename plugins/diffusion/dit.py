"""DiT over space-time tokens."""

from __future__ import annotations

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
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Depth, Heads, Positive, Width
from mutoscope.core.values import Conditioning, Tokens


@final
class Dit(LevelDenoiser):
    """Diffusion transformer with adaLN-Zero, over space-time tokens. Peebles & Xie 2023, sec. 3, arXiv:2212.09748.

    The level and the pooled conditioning modulate every block; a sequence of prompt features enters by cross-attention
    (PixArt's place, after self-attention; Chen et al. 2023, arXiv:2310.00426) or in context, as further tokens.
    Attention is joint over space and time. With a pooled vector of its own width and no sequence it is the paper's DiT.
    Known clean tokens are modulated as level 0.

    mlp: hidden width of the feed-forward layer over the width. positions: `rotary`, fixed `sincos` over (t, y, x), or
    the paper's fixed table over (y, x), `plane`. prompt: how a sequence enters; without one it makes no difference.
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
        positions: Literal["rotary", "sincos", "plane"] = "rotary",
        prompt: Literal["cross", "context"] = "cross",
    ) -> None:
        super().__init__()
        if positions == "rotary" and width // heads % 2:
            raise ValueError(
                f"heads: rotary positions need an even head width; {width} over {heads} heads is {width // heads}"
            )
        if prompt == "context" and tokens.packed:
            raise ValueError("prompt: packed tokens cannot have their prompts in context; use cross")
        self.width, self.positions, self.head_width = width, positions, width // heads
        self.in_context = prompt == "context" and given.sequence > 0
        self.cells = given.cells
        self.patch = tokens.patch
        self.embed = nn.Linear(tokens.width + given.cells * _volume(tokens.patch), width)
        self.level = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = (
            nn.Identity() if given.pooled == width else nn.Linear(given.pooled, width) if given.pooled else None
        )
        self.context = nn.Linear(given.sequence, width) if self.in_context else None
        self.per_frame = nn.Linear(given.per_frame, width, bias=False) if given.per_frame else None
        cross = given.sequence if prompt == "cross" else 0
        self.blocks = nn.ModuleList(Block(width, heads, int(width * mlp), cross) for _ in range(depth))
        self.modulate = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, process.output_width(tokens))
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for linear layers, N(0, .02) for the level, zero for every gate and the output (sec. 3.2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.level[0], self.level[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        for block in self.blocks:
            block.silence()  # type: ignore[operator]
        for layer in (self.modulate, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        x = self.embed(self._with_cells(tokens, conditioning))
        if self.per_frame is not None and conditioning.per_frame is not None:
            x = x + _spread(tokens, self.per_frame(conditioning.per_frame))
        c = self._told(level, conditioning)
        clean = self._told(torch.zeros_like(level), conditioning) if conditioning.known is not None else None
        by = None
        if self.positions == "rotary":
            by = rotation(tokens.positions[:1] if tokens.regular else tokens.positions, self.head_width)
        else:
            table = sincos_positions if self.positions == "sincos" else sincos_plane
            x = x + table(tokens.positions[:1] if tokens.regular else tokens.positions, self.width).to(x.dtype)
        mask, cross = tokens.attention_mask(), None
        sequence = conditioning.sequence
        if sequence is not None:
            cross = _prompt_mask(tokens, conditioning)
            if not tokens.regular:
                sequence = rearrange(sequence, "k l d -> 1 (k l) d").expand(len(x), -1, -1)
        n = x.shape[1]
        if self.context is not None and sequence is not None:
            x, mask, by = self._in_context(x, self.context(sequence), conditioning.mask, by)
        spread = _Spread(tokens, conditioning, x.shape[1] - n)
        for block in self.blocks:
            x = block(x, c, clean, spread, mask, by, sequence, cross)
        shift, scale = spread(self.modulate, c, clean).chunk(2, dim=-1)
        x = F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale) + shift
        return self.out(x[:, x.shape[1] - n :])

    def _told(self, level: Tensor, conditioning: Conditioning) -> Tensor:
        """The modulating vector of each clip, K D, after its activation."""
        c = self.level(sinusoid(level, 256).to(self.level[0].weight.dtype))  # type: ignore[arg-type]
        if self.pooled is not None and conditioning.pooled is not None:
            c = c + self.pooled(conditioning.pooled)
        return F.silu(c)

    def _with_cells(self, tokens: Tokens, conditioning: Conditioning) -> Tensor:
        """Tokens with the conditioning of their latent cells beside them."""
        x = tokens.filled()
        if not self.cells or conditioning.cells is None:
            return x
        t, h, w = self.patch
        cells = rearrange(conditioning.cells, "b c (t i) (h j) (w k) -> b (t h w) (c i j k)", i=t, j=h, k=w)
        return torch.cat([x, cells.to(x.dtype)], dim=-1)

    def _in_context(
        self, x: Tensor, context: Tensor, real: Tensor | None, by: Rotation | None
    ) -> tuple[Tensor, Tensor | None, Rotation | None]:
        """Puts the prompt's features before the tokens, and widens the mask and the rotation to them."""
        length = context.shape[1]
        mask = None if real is None else F.pad(real, (0, x.shape[1]), value=True)[:, None, None]
        if by is not None:
            cos, sin = by
            by = F.pad(cos, (0, 0, length, 0), value=1.0), F.pad(sin, (0, 0, length, 0))
        return torch.cat([context, x], dim=1), mask, by


class Block(nn.Module):
    """Self-attention, optionally cross-attention, and an MLP, with adaLN-Zero around the first and the last."""

    def __init__(self, width: int, heads: int, hidden: int, context: int) -> None:
        super().__init__()
        self.width = width
        self.modulate = nn.Linear(width, 6 * width)
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, context, heads) if context else None
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def silence(self) -> None:
        """Makes the block the identity."""
        for layer in (self.modulate, *([self.cross.out] if self.cross is not None else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        clean: Tensor | None,
        spread: _Spread,
        mask: Tensor | None,
        by: Rotation | None,
        context: Tensor | None,
        cross: Tensor | None,
    ) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = spread(self.modulate, c, clean).chunk(6, dim=-1)
        h = F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale_a) + shift_a
        x = x + gate_a * self.attention(h, mask, by)
        if self.cross is not None and context is not None:
            x = x + self.cross(x, context, cross)
        h = F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale_m) + shift_m
        return x + gate_m * self.mlp(h)


class _Spread:
    """Spreads a modulation of clips over their tokens; known clean tokens get that of level 0."""

    def __init__(self, tokens: Tokens, conditioning: Conditioning, before: int) -> None:
        self.tokens, self.known, self.before = tokens, conditioning.known, before

    def __call__(self, layer: nn.Module, c: Tensor, clean: Tensor | None) -> Tensor:
        """B 1 or B N, width of the layer."""
        told = self.tokens.per_token(layer(c))
        if self.known is not None and clean is not None:
            told = torch.where(self.known.where[..., None], self.tokens.per_token(layer(clean)), told)
        if self.before and told.shape[1] > 1:
            told = torch.cat([told[:, :1].expand(-1, self.before, -1), told], dim=1)
        return told


def _prompt_mask(tokens: Tokens, conditioning: Conditioning) -> Tensor | None:
    """Which prompt features each token sees: B 1 1 L when regular, B 1 N (K L) when packed."""
    mask = conditioning.mask
    if tokens.regular:
        return None if mask is None else mask[:, None, None]
    assert conditioning.sequence is not None
    k, length = conditioning.sequence.shape[:2]
    owner = torch.arange(1, k + 1, device=tokens.device).repeat_interleave(length)
    real = torch.ones_like(owner, dtype=torch.bool) if mask is None else mask.reshape(-1)
    sees = (tokens.clip[:, :, None] == owner) & real
    # Padding looks at the first feature, so that no row of the softmax is empty.
    sees[..., 0] |= tokens.clip == 0
    return sees[:, None]


def _spread(tokens: Tokens, frames: Tensor) -> Tensor:
    """K T D over latent frames to B N D over tokens, by each token's own frame."""
    place = tokens.positions[..., 0].long()
    clip = (tokens.clip - 1).clamp(min=0)
    return frames[clip, place.clamp(max=frames.shape[1] - 1)]


def _volume(patch: tuple[int, int, int]) -> int:
    return patch[0] * patch[1] * patch[2]
