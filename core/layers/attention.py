"""Multi-head attention by `scaled_dot_product_attention`."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.layers.rotary import Rotation, rotate


class SelfAttention(nn.Module):
    """Every token attends to every token that the mask allows. Vaswani et al. 2017, sec. 3.2.

    Raises ValueError where heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = _dividing(heads, width)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, by: Rotation | None = None) -> Tensor:
        """B N D to B N D. mask: booleans that broadcast to B heads N N, true where attention is allowed."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads).unbind(0)
        if by is not None:
            q, k = rotate(q, by), rotate(k, by)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class CrossAttention(nn.Module):
    """Tokens attend to a sequence of another width."""

    def __init__(self, width: int, context: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = _dividing(heads, width)
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(context, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """B N D and B L C to B N D. mask: booleans that broadcast to B heads N L."""
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(context), "b l (two h d) -> two b h l d", two=2, h=self.heads).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


def _dividing(heads: int, width: int) -> int:
    if width % heads:
        raise ValueError(f"heads: {heads} heads do not divide a width of {width}")
    return heads
