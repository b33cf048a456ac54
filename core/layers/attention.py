"""Multi-head attention by `scaled_dot_product_attention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.layers.rotary import Rotation, rotate


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """B heads N D queries over B heads L D keys and values to B heads N D. Vaswani et al. 2017, eq. 1.

    mask: what broadcasts to B heads N L; booleans, true where attention is allowed, or numbers that are added to the
    logits. Where a processor learns at low precision this part of it runs in float32: its backward pass in bfloat16
    takes up to ten times as long for rows of a hundred tokens.
    """
    narrow = torch.is_autocast_enabled("cpu") or v.dtype in (torch.bfloat16, torch.float16)
    if v.device.type == "cpu" and narrow and torch.is_grad_enabled():
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, is_causal=causal)
        return mixed.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


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
        mixed = scaled_attention(q, k, v, mask)
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
        mixed = scaled_attention(q, k, v, mask)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


def _dividing(heads: int, width: int) -> int:
    if width % heads:
        raise ValueError(f"heads: {heads} heads do not divide a width of {width}")
    return heads
