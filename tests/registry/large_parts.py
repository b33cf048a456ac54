"""Parts for `describe`: one of 175 billion parameters, and some that are hard to count."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import nn

import mutoscope.core.values as v
from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.denoiser import LevelDenoiser, TokenDenoiser
from mutoscope.core.facts import ClipFact, ConditioningFact, Discrete, LatentFact, TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.plugin import hookimpl
from mutoscope.core.process import LevelProcess, TokenProcess
from mutoscope.core.settings import Count, Depth, Heads, Width


class Straight(LevelProcess):
    kind = "flow"

    def coefficients(self, level):
        return 1 - level, level


@final
class Palette(Autoencoder):
    """Every pixel is an id."""

    name = "palette"

    def __init__(self, clip: ClipFact, *, codebook: Count = 16) -> None:
        super().__init__()
        self.clip, self.codebook = clip, codebook

    def encode(self, video):
        return v.Latents(video[:, 0].long(), ids=True)

    def decode(self, latents):
        return latents.values[:, None].float()

    def latent_grid(self, frames, size):
        return v.Grid(frames, *size)

    def video_size(self, grid):
        return tuple(grid)

    def forward(self, video, draw):
        return v.Reconstruction(video)

    def facts(self):
        return [LatentFact(1, (1, 1, 1), v.Grid(self.clip.frames, *self.clip.size), codebook=self.codebook)]


class Block(nn.Module):
    """Attention and a perceptron of four times the width: 12 D D + 13 D parameters."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, value = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.into(self.before(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, value).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.between(x))))


@final
class Decoder(TokenDenoiser):
    """A transformer over ids."""

    name = "decoder"

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete],
        process: TokenProcess,
        *,
        width: Width = 16,
        depth: Depth = 2,
        heads: Heads = 2,
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens.codebook or 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, tokens, conditioning, cache=None):
        x = self.table(tokens.filled())
        for block in self.blocks:
            x = block(x)
        return v.Logits(x @ self.table.weight.T)

    def new_cache(self, canvas):
        return []


@final
class Idle(LevelDenoiser):
    """Has a matrix, and does not use it as one."""

    name = "idle"

    def __init__(self, tokens: TokenFact, given: ConditioningFact, process: LevelProcess) -> None:
        super().__init__()
        self.net = nn.Linear(tokens.width, tokens.width)

    def forward(self, tokens, level, conditioning):
        return tokens.filled() * self.net.weight.sum()


@final
class Peeking(Objective):
    """A loss over places that depend on the values."""

    name = "peeking"
    accepts = LevelDenoiser

    def __init__(self, tokens: TokenFact) -> None:
        super().__init__()
        self.process = Straight()

    def loss(self, learner, example, draw, turn):
        raw = learner(
            example.tokens, torch.zeros(len(example.tokens), device=raw_device(example)), example.conditioning
        )
        return v.Losses(raw[example.tokens.filled() > 0].square().mean())


def raw_device(example):
    return example.tokens.device


@hookimpl
def mutoscope_components():
    return [Palette, Decoder, Idle, Peeking]
