"""Cross-entropy of ids, and what is known of them."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.values import Conditioning


def cross_entropy(logits: Tensor, ids: Tensor, smoothing: float = 0.0) -> Tensor:
    """Nats of each id, B N, from logits B N V; float32 whatever the logits are."""
    nats = F.cross_entropy(
        rearrange(logits.float(), "b n v -> (b n) v"), ids.reshape(-1), reduction="none", label_smoothing=smoothing
    )
    return nats.view(ids.shape)


def mean_where(values: Tensor, where: Tensor | None) -> Tensor:
    """The mean of B N values over each clip's chosen places, then over clips; clips without any count as 0."""
    if where is None:
        return values.mean()
    return ((values * where).sum(1) / where.sum(1).clamp(min=1)).mean()


def known_at(told: Conditioning) -> Tensor | None:
    """Where ids are known, B N; None where none are."""
    return None if told.known is None else told.known.where


def known_ids(told: Conditioning) -> Tensor | None:
    """The known ids, B N; arbitrary elsewhere."""
    if told.known is None:
        return None
    values = told.known.values
    return (values[..., 0] if values.ndim == 3 else values).long()
