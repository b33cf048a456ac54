"""What transformers over tokens are told of each clip: level, pooled vector, prompt, frames; packed rows included."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.facts import ConditioningFact
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.values import Conditioning, Tokens


class Telling(nn.Module):
    """One modulating vector per clip from its level and its pooled conditioning.

    Peebles & Xie 2023, sec. 3.2: 256 sinusoids, Linear, SiLU, Linear, plus the pooled vector, then SiLU. A pooled
    vector of another width is brought to this one by a linear layer.
    """

    def __init__(self, given: ConditioningFact, width: int) -> None:
        super().__init__()
        self.level = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = pooled_to(given, width)
        for layer in (self.level[0], self.level[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor, conditioning: Conditioning) -> Tensor:
        """K levels to K D."""
        c = self.level(sinusoid(level, 256).to(self.level[0].weight.dtype))  # type: ignore[arg-type]
        if self.pooled is not None and conditioning.pooled is not None:
            c = c + self.pooled(conditioning.pooled)
        return F.silu(c)


def pooled_to(given: ConditioningFact, width: int) -> nn.Module | None:
    """What brings the pooled vector to a width; None where there is none."""
    if not given.pooled:
        return None
    return nn.Identity() if given.pooled == width else nn.Linear(given.pooled, width)


class Spread:
    """Spreads a modulation of clips over their tokens; known clean tokens get that of level 0.

    before: tokens that stand before the clip's own in every row.
    """

    def __init__(self, tokens: Tokens, conditioning: Conditioning, before: int = 0) -> None:
        self.tokens, self.known, self.before = tokens, conditioning.known, before

    def __call__(self, layer: nn.Module, c: Tensor, clean: Tensor | None = None) -> Tensor:
        """B 1 or B N, width of the layer. c, clean: K D, the modulating vectors at the clips' levels and at level 0."""
        told = self.tokens.per_token(layer(c))
        if self.known is not None and clean is not None:
            told = torch.where(self.known.where[..., None], self.tokens.per_token(layer(clean)), told)
        if self.before and told.shape[1] > 1:
            told = torch.cat([told[:, :1].expand(-1, self.before, -1), told], dim=1)
        return told


def of_each_row(tokens: Tokens, features: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Features of clips, K L D, as the rows of tokens may attend to them: B L' D, and the mask B 1 N L' or B 1 1 L'.

    In a packed row the features of its clips follow each other, and a token sees those of its own clip. real: K L,
    true = a real feature.
    """
    if tokens.regular:
        return features, None if real is None else real[:, None, None]
    members, length = tokens.row_members(), features.shape[1]
    owner = members.repeat_interleave(length, dim=1)
    sees = tokens.clip[:, :, None] == owner[:, None]
    if real is not None:
        sees = sees & rearrange(tokens.per_row(real), "b e l -> b 1 (e l)")
    # Padding looks at the first feature, so that no row of the softmax is empty.
    sees = sees | F.pad((tokens.clip == 0)[..., None], (0, owner.shape[1] - 1))
    return rearrange(tokens.per_row(features), "b e l d -> b (e l) d"), sees[:, None]


def of_frames(tokens: Tokens, frames: Tensor) -> Tensor:
    """K T D over latent frames to B N D over tokens, by each token's own frame."""
    place = tokens.positions[..., 0].long().clamp(max=frames.shape[1] - 1)
    return frames[(tokens.clip - 1).clamp(min=0), place]
