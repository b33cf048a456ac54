"""Errors of predictions, averaged so that every clip counts the same."""

from __future__ import annotations

import torch
from torch import Tensor

from mutoscope.core.values import Known, Tokens


def clip_means(error: Tensor, tokens: Tokens, known: Known | None = None) -> Tensor:
    """The mean of `error` (B N) over each clip's tokens, K numbers; padding and known tokens do not count.

    A clip of which everything is known has mean 0.
    """
    if tokens.regular and known is None:
        return error.mean(dim=1)
    counted = tokens.clip > 0
    if known is not None:
        counted = counted & ~known.where
    clip = torch.where(counted, tokens.clip, 0).flatten()
    sums = error.new_zeros(len(tokens) + 1).index_add(0, clip, error.flatten())
    counts = error.new_zeros(len(tokens) + 1).index_add(0, clip, torch.ones_like(error).flatten())
    return sums[1:] / counts[1:].clamp(min=1)
