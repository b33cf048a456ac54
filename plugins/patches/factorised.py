"""The four ways of ViViT to attend over space and time, on grids of tokens B T S D (S places of a frame).

Arnab et al. 2021, sec. 3.3, arXiv:2103.15691. Each block normalises in front of every branch; a `Told` norm also takes
shift, scale and gate from what it is told, as DiT's adaLN-Zero does, and starts with its branch closed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.layers.attention import CrossAttention, SelfAttention

EPS = 1e-6


class Plain(nn.LayerNorm):
    """Layer norm; its branch is always open."""

    def __init__(self, width: int) -> None:
        super().__init__(width, EPS)

    def forward(self, input: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | float]:
        return super().forward(input), 1.0


class Told(nn.Module):
    """Layer norm with shift, scale and gate from c, which is B ... D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.modulate = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | float]:
        assert c is not None
        told = self.modulate(c)
        shift, scale, gate = told.view(len(c), *[1] * (x.ndim - 2), 3 * self.width).chunk(3, dim=-1)
        return F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale) + shift, gate


Norm = Callable[[int], nn.Module]


class Joint(nn.Module):
    """Attention among all tokens of a sequence B N D, and an MLP: model 1, and the two encoders of model 2."""

    def __init__(self, width: int, heads: int, hidden: int, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.attention = norm(width), SelfAttention(width, heads)
        self.norm2, self.mlp = norm(width), mlp(width, hidden)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        h, gate = self.norm1(x, c)
        x = x + gate * self.attention(h)
        h, gate = self.norm2(x, c)
        return x + gate * self.mlp(h)


class Alternating(nn.Module):
    """Attention over the places of each frame, then over the frames of each place, then an MLP: model 3."""

    def __init__(self, width: int, heads: int, hidden: int, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.attention = norm(width), SelfAttention(width, heads)
        self.norm_t, self.over_time = norm(width), SelfAttention(width, heads)
        self.norm2, self.mlp = norm(width), mlp(width, hidden)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        b, t = x.shape[:2]
        h, gate = self.norm1(x, c)
        x = x + gate * rearrange(self.attention(h.flatten(0, 1)), "(b t) s d -> b t s d", t=t)
        h, gate = self.norm_t(x, c)
        lines = self.over_time(rearrange(h, "b t s d -> (b s) t d"))
        x = x + gate * rearrange(lines, "(b s) t d -> b t s d", b=b)
        h, gate = self.norm2(x, c)
        return x + gate * self.mlp(h)


class Halves(nn.Module):
    """One attention, half of whose heads look over space and half over time, and an MLP: model 4."""

    def __init__(self, width: int, heads: int, hidden: int, norm: Norm) -> None:
        super().__init__()
        if heads % 2:
            raise ValueError(f"heads: model 4 deals them to space and time in halves; got {heads}")
        self.norm1, self.attention = norm(width), SelfAttention(width, heads)
        self.norm2, self.mlp = norm(width), mlp(width, hidden)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        h, gate = self.norm1(x, c)
        x = x + gate * self.attention.out(self.mixed(h))
        h, gate = self.norm2(x, c)
        return x + gate * self.mlp(h)

    def mixed(self, h: Tensor) -> Tensor:
        """What the heads gather, B T S D: the first half of D over space, the second over time."""
        parts = rearrange(self.attention.qkv(h), "b t s (n h e) -> n h b t s e", n=3, h=self.attention.heads)
        space, time = parts.chunk(2, dim=1)
        over_space = F.scaled_dot_product_attention(*space.unbind(0))
        q, k, v = rearrange(time, "n h b t s e -> n h b s t e").unbind(0)
        over_time = rearrange(F.scaled_dot_product_attention(q, k, v), "h b s t e -> h b t s e")
        return rearrange(torch.cat([over_space, over_time]), "h b t s e -> b t s (h e)")


class Asking(nn.Module):
    """Cross-attention of every token to a prompt, closed at first."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width, EPS), CrossAttention(width, context, heads)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def forward(self, x: Tensor, context: Tensor, sees: Tensor | None) -> Tensor:
        """B T S D."""
        asked = self.attention(self.norm(x).flatten(1, 2), context, sees)
        return x + asked.view(x.shape)


def mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


def initialise(module: nn.Module) -> None:
    """Xavier for matrices, zeros for biases; what is meant to start closed is closed again by its owner."""
    for member in module.modules():
        if isinstance(member, nn.Linear):
            nn.init.xavier_uniform_(member.weight)
            if member.bias is not None:
                nn.init.zeros_(member.bias)
    for member in module.modules():
        closed = member.modulate if isinstance(member, Told) else None
        closed = member.attention.out if isinstance(member, Asking) else closed
        closed = member.over_time.out if isinstance(member, Alternating) and isinstance(member.norm1, Plain) else closed
        if closed is not None:
            nn.init.zeros_(closed.weight)
            nn.init.zeros_(closed.bias)
