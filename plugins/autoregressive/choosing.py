"""From logits to ids: temperature, truncation, guidance, and a draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.guidance import nothing_told
from mutoscope.core.values import Conditioning, Tokens


def sharpened(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Probabilities ... V at a temperature, of the k likeliest ids, then of the fewest whose mass reaches p.

    temperature: 0 puts all mass on the likeliest id. top_k: 0 keeps all (Fan et al. 2018, arXiv:1805.04833). top_p: 1
    keeps all (nucleus, Holtzman et al. 2020, sec. 3.1, arXiv:1904.09751); the likeliest id always stays.
    """
    logits = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        # An id stays while the mass before it is below p.
        stays = ordered.cumsum(-1) - ordered < top_p
        stays[..., 0] = True
        kept = torch.zeros_like(probabilities).scatter(-1, order, ordered * stays)
        probabilities = kept / kept.sum(-1, keepdim=True)
    return probabilities


def chosen(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The ids ... at which the cumulative probabilities ... V pass uniform numbers ... in [0, 1)."""
    cumulative = probabilities.cumsum(-1)
    # Rounding leaves the last sum a little off 1; ids without mass are never passed.
    passed = cumulative <= (uniform[..., None] * cumulative[..., -1:])
    last = probabilities.shape[-1] - 1 - (probabilities.flip(-1) > 0).float().argmax(-1)
    return torch.minimum(passed.sum(-1), last)


class GuidedLogits:
    """Logits with and without what was asked for, combined: null + scale (told - null).

    Yu et al. 2022 (Parti), sec. 2.3, arXiv:2206.10789. Scale 1 is the plain conditional logits and 0 those of nothing
    told, either with a single call. cached: a rollout keeps its keys and values, where the network has a cache.
    Raises InputError when guidance is asked for and the conditioning has no null.
    """

    def __init__(
        self, denoiser: TokenDenoiser, canvas: Tokens, conditioning: Conditioning, scale: float, cached: bool
    ) -> None:
        null = None if scale == 1.0 else nothing_told(conditioning, scale)
        told = [conditioning] if null is None else [null] if scale == 0.0 else [null, conditioning]
        self.denoiser, self.scale = denoiser, scale
        self.calls: list[tuple[Conditioning, Any | None]] = [
            (said, denoiser.new_cache(canvas) if cached else None) for said in told
        ]

    @property
    def cached(self) -> bool:
        return self.calls[0][1] is not None

    def __call__(self, tokens: Tokens) -> Tensor:
        """B N V, or B 1 V of the next id in a cached rollout."""
        made = [self.denoiser(tokens, said, cache).values.float() for said, cache in self.calls]
        return made[0] if len(made) == 1 else torch.lerp(made[0], made[1], self.scale)


def calls_per_guess(scale: float) -> int:
    """Network calls of one guided guess."""
    return 1 if scale in (0.0, 1.0) else 2
