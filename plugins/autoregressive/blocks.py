"""Pre-norm blocks of token models, put together from what a model brings."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.layers.attention import SelfAttention
from mutoscope.core.layers.masked import ContextAttention, MaskedAttention, Masks, Memory

Keys = tuple[Tensor, Tensor]


class SigmoidGelu(nn.Module):
    """x sigmoid(1.702 x), Hendrycks & Gimpel 2016, arXiv:1606.08415, sec. 2."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def feed_forward(width: int, hidden: int, activation: nn.Module, bias: bool = True) -> nn.Sequential:
    """Two linear layers with an activation between."""
    return nn.Sequential(nn.Linear(width, hidden, bias=bias), activation, nn.Linear(hidden, width, bias=bias))


class Block(nn.Module):
    """x + attention(norm(x)), then the same with cross-attention where there is a context, then with an MLP."""

    def __init__(
        self,
        norm: Callable[[], nn.Module],
        attention: MaskedAttention,
        feed: nn.Sequential,
        cross: ContextAttention | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.before, self.attention = norm(), attention
        self.between, self.cross = (norm(), cross) if cross is not None else (None, None)
        self.after, self.feed = norm(), feed
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        masks: Masks,
        memory: Memory | None = None,
        keys: Keys | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """B R D to B R D. keys: of the context; seen: which of them, broadcastable to B H R L."""
        x = x + self._dropped(self.attention(self.before(x), masks, memory))
        if self.cross is not None and self.between is not None and keys is not None:
            x = x + self._dropped(self.cross(self.between(x), keys, seen))
        return x + self._dropped(self.feed(self.after(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class EncoderBlock(nn.Module):
    """The same over a prompt, every token of which sees every other."""

    def __init__(self, norm: Callable[[], nn.Module], width: int, heads: int, feed: nn.Sequential, bias: bool) -> None:
        super().__init__()
        self.before, self.attention = norm(), SelfAttention(width, heads, bias)
        self.after, self.feed = norm(), feed

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        x = x + self.attention(self.before(x), seen)
        return x + self.feed(self.after(x))


def initialise(module: nn.Module, depth: int, std: float = 0.02) -> None:
    """N(0, std) for linear layers and tables, and std / sqrt(2 depth) where a residual branch ends.

    Radford et al. 2019, sec. 2.3.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, (Block, EncoderBlock)):
            ends = [part.attention.out, part.feed[-1]]
            if isinstance(part, Block) and part.cross is not None:
                ends.append(part.cross.out)
            for layer in ends:
                nn.init.normal_(layer.weight, std=std / (2 * depth) ** 0.5)  # type: ignore[arg-type]
