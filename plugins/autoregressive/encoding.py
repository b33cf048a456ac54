"""The prompt encoder of the encoder-decoder models that are told features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mutoscope.core.facts import ConditioningFact
from mutoscope.core.layers.masked import Rollout
from mutoscope.core.values import Conditioning
from mutoscope.plugins.autoregressive.blocks import EncoderBlock, Keys, feed_forward


class PromptEncoder(nn.Module):
    """Features of a prompt, brought to the width, with learned positions, through pre-norm blocks and a last norm."""

    def __init__(
        self,
        given: ConditioningFact,
        width: int,
        depth: int,
        heads: int,
        norm: Callable[[], nn.Module],
        activation: Callable[[], nn.Module],
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.read = nn.Identity() if given.sequence == width else nn.Linear(given.sequence, width)
        self.places = nn.Parameter(0.02 * torch.randn(given.length, width))
        self.blocks = nn.ModuleList(
            EncoderBlock(norm, width, heads, feed_forward(width, 4 * width, activation(), bias), bias)
            for _ in range(depth)
        )
        self.norm = norm()

    def forward(self, conditioning: Conditioning) -> Tensor:
        """B L D."""
        assert conditioning.sequence is not None
        x = self.read(conditioning.sequence) + self.places[: conditioning.sequence.shape[1]]
        seen = visible(conditioning)
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x)


def visible(conditioning: Conditioning) -> Tensor | None:
    """Which tokens of the prompt are real, B 1 1 L."""
    return None if conditioning.mask is None else conditioning.mask[:, None, None]


def keys_of(encode: Callable[[], Tensor], blocks: nn.ModuleList, cache: Rollout | None) -> list[Keys]:
    """Keys and values of the encoded prompt for every block of a decoder, made once a rollout."""
    if cache is not None and cache.told is not None:
        return cache.told
    context = encode()
    keys = [block.cross.keys(context) for block in blocks]  # type: ignore[union-attr, operator]
    if cache is not None:
        cache.told = keys
    return keys
