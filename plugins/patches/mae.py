"""The `mae` objective: a masked autoencoder's pre-training."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Gt, Lt
from einops import rearrange, repeat
from torch import Tensor, nn

from mutoscope.core.facts import ClipFact, FeatureFact
from mutoscope.core.layers.attention import SelfAttention
from mutoscope.core.layers.embeddings import sincos_plane
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Depth, Heads, Width
from mutoscope.core.values import Example, Grid, Losses, Tokens
from mutoscope.plugins.patches.vit import VitTower

EPS = 1e-6


@final
class Mae(Objective):
    """A tower encodes a few patches of a frame; a small decoder, which is the objective's, gives the others back.

    He et al. 2022, sec. 3, arXiv:2111.06377. Positions are added, then a random share of the patches is dropped, drawn
    anew for each frame; the class token and the rest are encoded, brought to the decoder's width, and put back among
    copies of one mask token in the patches' own order. The error is that of the hidden patches alone.

    ratio: share that is hidden. width, depth, heads: of the decoder. normalised: what is to be given back is each patch
    less its mean, over its deviation. tube: the same places are hidden in all frames of a clip (Tong et al. 2022,
    arXiv:2203.12602).
    """

    name = "mae"
    paper = "He et al. 2022, arXiv:2111.06377"
    learns = "tower"
    accepts = VitTower
    tiny = {"width": 16, "depth": 1, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        features: FeatureFact,
        *,
        ratio: Annotated[float, Gt(0.0), Lt(1.0)] = 0.75,
        width: Width = 512,
        depth: Depth = 8,
        heads: Heads = 16,
        normalised: bool = True,
        tube: bool = False,
    ) -> None:
        super().__init__()
        self.ratio, self.width, self.normalised, self.tube = ratio, width, normalised, tube
        self.patch, self.plane = features.patch[1], features.grid[1:]
        self.embed = nn.Linear(features.width, width)
        self.mask = nn.Parameter(torch.empty(width))
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)
        self.out = nn.Linear(width, clip.channels * self.patch**2)
        nn.init.normal_(self.mask, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def loss(self, learner: VitTower, example: Example, draw: Draw, turn: str) -> Losses:
        videos = example.batch.video
        assert videos is not None
        clips = list(videos) if isinstance(videos, tuple) else [videos]
        share = [draw.of(draw.clips[i : i + 1]) for i in range(len(clips))] if isinstance(videos, tuple) else [draw]
        errors = []
        for video, own in zip(clips, share, strict=True):
            frames = rearrange(video if video.ndim == 5 else video[None], "b c t h w -> b t c h w")
            hidden = self.hidden(own, *frames.shape[:2], self._grid(frames))
            frames, hidden = frames.flatten(0, 1), hidden.flatten(0, 1)
            errors.append(self.error(self.predicted(learner, frames, hidden), self.target(frames), hidden))
        return Losses(torch.stack(errors).mean())

    def hidden(self, draw: Draw, clips: int, frames: int, patches: int) -> Tensor:
        """Which patches are hidden: clips, frames, patches booleans, as many in every frame."""
        chance = draw.uniform("mask", 1 if self.tube else frames, patches).expand(clips, frames, patches)
        return chance.argsort(dim=-1).argsort(dim=-1) >= self.kept(patches)

    def kept(self, patches: int) -> int:
        """How many patches of a frame are encoded."""
        return max(1, int(patches * (1 - self.ratio)))

    def latent(self, learner: VitTower, frames: Tensor, hidden: Tensor) -> Tensor:
        """What the encoder makes of what it may see: F 1+L D for frames F C H W, of which it is given L patches."""
        seen = learner.embed(frames)
        order = hidden.to(torch.int8).argsort(dim=1, stable=True)[:, : self.kept(hidden.shape[1])]
        return learner.encode(seen.gather(1, order[..., None].expand(-1, -1, seen.shape[-1])))

    def predicted(self, learner: VitTower, frames: Tensor, hidden: Tensor) -> Tensor:
        """The decoder's patches, F N (p p c)."""
        latent = self.embed(self.latent(learner, frames, hidden))
        count = latent.shape[1] - 1
        order = hidden.to(torch.int8).argsort(dim=1, stable=True)
        masks = repeat(self.mask.to(latent.dtype), "d -> f n d", f=len(frames), n=hidden.shape[1] - count)
        shuffled = torch.cat([latent[:, 1:], masks], dim=1)
        places = order.argsort(dim=1)[..., None].expand(-1, -1, self.width)
        patches = shuffled.gather(1, places) + self._positions(frames).to(latent.dtype)
        x = torch.cat([latent[:, :1], patches], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))[:, 1:]

    def target(self, frames: Tensor) -> Tensor:
        """The frames' patches, F N (p p c), each normalised where the objective says so."""
        patches = rearrange(frames, "f c (h p) (w q) -> f (h w) (p q c)", p=self.patch, q=self.patch)
        if not self.normalised:
            return patches
        return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + EPS).sqrt()

    def error(self, predicted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
        """The mean squared error of the hidden patches; as many in every frame, so that every clip counts the same."""
        each = (predicted.float() - target).square().mean(-1)
        return (each * hidden).sum() / hidden.sum()

    def _grid(self, frames: Tensor) -> int:
        return (frames.shape[-2] // self.patch) * (frames.shape[-1] // self.patch)

    def _positions(self, frames: Tensor) -> Tensor:
        grid = Grid(1, frames.shape[-2] // self.patch, frames.shape[-1] // self.patch)
        return sincos_plane(Tokens.canvas(grid, 1, frames.device).positions, self.width)


class DecoderBlock(nn.Module):
    """A pre-norm transformer block, as the encoder's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, EPS), SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))
