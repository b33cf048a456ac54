"""Frames as a batch of pictures, for networks that know images only; an image is a video of one frame."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.values import Conditioning, Tokens


def inputs(tokens: TokenFact, given: ConditioningFact) -> int:
    """Channels of a picture: the token's values, and beside them the conditioning of its latent cells."""
    t, h, w = tokens.patch
    return tokens.width + given.cells * t * h * w


def pictures(tokens: Tokens, conditioning: Conditioning, patch: tuple[int, int, int]) -> Tensor:
    """Regular tokens B N D as (B T) C H W: one picture per frame of tokens, with the conditioning's cells beside."""
    x = rearrange(tokens.as_grid(), "b d t h w -> (b t) d h w")
    if conditioning.cells is None:
        return x
    t, h, w = patch
    cells = rearrange(conditioning.cells, "b c (t i) (h j) (w k) -> (b t) (c i j k) h w", i=t, j=h, k=w)
    return torch.cat([x, cells.to(x.dtype)], dim=1)


def rows(pictures: Tensor, tokens: Tokens) -> Tensor:
    """(B T) D H W as token values B N D."""
    return rearrange(pictures, "(b t) d h w -> b (t h w) d", t=tokens.grids[0].frames)


def each_frame(x: Tensor | None, tokens: Tokens) -> Tensor | None:
    """One entry per clip as one per picture: K ... to (K T) ..."""
    return None if x is None else x.repeat_interleave(tokens.grids[0].frames, dim=0)


def of_frames(per_frame: Tensor, tokens: Tokens, patch: tuple[int, int, int]) -> Tensor:
    """One entry per latent frame as one per picture, the mean over the frames of a token: K T D to (K T) D."""
    return rearrange(per_frame, "k (t i) d -> k t i d", i=patch[0]).mean(2).flatten(0, 1)
