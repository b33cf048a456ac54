"""The denoiser `video_unet`: frames as pictures, and between them attention or convolution over time."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.attention import CrossAttention, SelfAttention
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.norms import GroupNorm
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.video_diffusion.frames import TimeAttention, TimeConvolution


@final
class VideoUNet(LevelDenoiser):
    """The U-Net of Imagen Video's stages. Ho et al. 2022, sec. 2.4, arXiv:2210.02303.

    Every layer is one of space, over each frame as a picture, and then one of time, over the frames of each place: a
    base model attends over time, models that raise the resolution convolve, as they are to look near. The level, the
    pooled vector and noise levels of what is beside the input scale and shift residual blocks; where places attend to
    each other, they also attend to the prompt. Rows and columns are halved before a level's blocks and doubled after
    them, as in the efficient U-Net of Saharia et al. 2022, app. F, arXiv:2205.11487. Conditioning cells, as an earlier
    stage's video, come beside the input. Without `attend` it is convolutional throughout and may learn from crops. An
    image is a clip of one frame, which the layers of time leave alone.

    width: channels of the first level. multipliers: of the width, one per level. depth: residual blocks of each level.
    attend: strides (1, 2, 4, ...) at which places attend; the last level's also in the middle. time: layer of time.
    head_width: least width of a head.
    """

    name = "video_unet"
    paper = "Ho et al. 2022, arXiv:2210.02303"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": (1, 1), "attend": (2,), "head_width": 8}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 128,
        multipliers: tuple[Count, ...] = (1, 2, 4),
        depth: tuple[Depth, ...] = (2, 2, 2),
        attend: tuple[Count, ...] = (2, 4),
        time: Literal["attention", "convolution"] = "attention",
        head_width: Width = 64,
    ) -> None:
        super().__init__()
        if not multipliers or len(depth) != len(multipliers):
            raise ValueError(f"depth: one number for each of {len(multipliers)} multipliers; got {len(depth)}")
        told, widths, frames = 4 * width, [width * m for m in multipliers], tokens.grid.frames
        last = len(widths) - 1
        self.width, self.patch = width, tokens.patch
        self.level = nn.Sequential(nn.Linear(width, told), nn.SiLU(), nn.Linear(told, told))
        self.pooled = nn.Linear(given.pooled, told) if given.pooled else None
        self.per_frame = nn.Linear(given.per_frame, told, bias=False) if given.per_frame else None
        beside = given.cells * tokens.patch[0] * tokens.patch[1] * tokens.patch[2]
        self.embed = nn.Conv2d(tokens.width + beside, width, 3, padding=1)
        self.start = _time(width, time, head_width, frames)

        def step(channels: int, out: int, level: int) -> Step:
            places = Places(out, given.sequence, heads_of(out, head_width)) if 2**level in attend else None
            return Step(Residual(channels, out, told), places, _time(out, time, head_width, frames))

        self.reduce, self.down = nn.ModuleList(), nn.ModuleList()
        before, kept = width, []
        for i, now in enumerate(widths):
            self.reduce.append(nn.Conv2d(before, now, 3, stride=2, padding=1) if i else nn.Identity())
            before = now if i else before
            self.down.append(nn.ModuleList(step(before if k == 0 else now, now, i) for k in range(depth[i])))
            before, kept = now, [*kept, *[now] * depth[i]]
        self.middle = step(before, before, last)
        self.up, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for i in range(last, -1, -1):
            blocks = []
            for _ in range(depth[i]):
                blocks.append(step(before + kept.pop(), widths[i], i))
                before = widths[i]
            self.up.append(nn.ModuleList(blocks))
            self.enlarge.append(nn.Conv2d(before, widths[i - 1], 3, padding=1) if i else nn.Identity())
            before = widths[i - 1] if i else before
        self.norm = GroupNorm(before)
        self.out = nn.Conv2d(before, process.output_width(tokens), 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        frames, told = tokens.grids[0].frames, self._told(tokens, level, conditioning)
        context = None if conditioning.sequence is None else conditioning.sequence.repeat_interleave(frames, dim=0)
        real = None if conditioning.mask is None else conditioning.mask.repeat_interleave(frames, dim=0)
        given = told, context, None if real is None else real[:, None, None], frames
        x = _between(self.start, self.embed(self._pictures(tokens, conditioning)), frames)
        kept: list[Tensor] = []
        for reduce, blocks in zip(self.reduce, self.down, strict=True):
            x = reduce(x)
            for block in blocks:  # type: ignore[union-attr]
                x = block(x, *given)
                kept.append(x)
        x = self.middle(x, *given)
        for blocks, enlarge in zip(self.up, self.enlarge, strict=True):
            for block in blocks:  # type: ignore[union-attr]
                x = block(torch.cat([x, kept.pop()], dim=1), *given)
            if kept:
                x = enlarge(F.interpolate(x, size=kept[-1].shape[2:], mode="nearest"))
        x = self.out(F.silu(self.norm(x)))
        return rearrange(x, "(b t) d h w -> b (t h w) d", t=frames)

    def _told(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """(B T) told: level, pooled vector and vectors of frames, after the activation."""
        frames = tokens.grids[0].frames
        c = self.level(sinusoid(level, self.width).to(self.embed.weight.dtype))
        if self.pooled is not None and conditioning.pooled is not None:
            c = c + self.pooled(conditioning.pooled)
        c = c.repeat_interleave(frames, dim=0)
        if self.per_frame is not None and conditioning.per_frame is not None:
            # A token of several latent frames is told their mean.
            said = rearrange(conditioning.per_frame, "b (t i) d -> b t i d", i=self.patch[0]).mean(dim=2)
            c = c + self.per_frame(said).flatten(0, 1)
        return F.silu(c)

    def _pictures(self, tokens: Tokens, conditioning: Conditioning) -> Tensor:
        """(B T) C H W: the frames, with the conditioning of their latent cells beside them."""
        x = rearrange(tokens.as_grid(), "b d t h w -> (b t) d h w")
        if conditioning.cells is None:
            return x
        i, j, k = self.patch
        cells = rearrange(conditioning.cells, "b c (t i) (h j) (w k) -> (b t) (c i j k) h w", i=i, j=j, k=k)
        return torch.cat([x, cells.to(x.dtype)], dim=1)


class Step(nn.Module):
    """A residual block of space, where asked for attention of places, and a layer of time."""

    def __init__(self, block: Residual, places: Places | None, time: nn.Module) -> None:
        super().__init__()
        self.block, self.places, self.time = block, places, time

    def forward(self, x: Tensor, told: Tensor, context: Tensor | None, mask: Tensor | None, frames: int) -> Tensor:
        """x: (B T) C H W. told: (B T) D. context: (B T) L D; mask: (B T) 1 1 L."""
        x = self.block(x, told)
        if self.places is not None:
            x = self.places(x, context, mask)
        return _between(self.time, x, frames)


class Residual(nn.Module):
    """A residual block over pictures, scaled and shifted by what it is told; its last convolution zero at first."""

    def __init__(self, channels: int, out: int, told: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.told = nn.Linear(told, 2 * out)
        self.norm2, self.conv2 = GroupNorm(out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.told(told)[..., None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


class Places(nn.Module):
    """Places of a picture attend to each other, then to the prompt; the identity at first."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(channels), SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels) if context else None
        self.prompt = CrossAttention(channels, context, heads) if context else None
        for layer in (self.attention.out, *([self.prompt.out] if self.prompt is not None else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        cells = rearrange(x, "b c h w -> b (h w) c")
        cells = cells + self.attention(self.norm1(cells))
        if self.prompt is not None and self.norm2 is not None and context is not None:
            cells = cells + self.prompt(self.norm2(cells), context, mask)
        return rearrange(cells, "b (h w) c -> b c h w", h=x.shape[2])


def heads_of(channels: int, width: int) -> int:
    """As many heads of at least a width as divide the channels; at least one."""
    return next(h for h in range(max(1, channels // width), 0, -1) if channels % h == 0)


def _time(channels: int, way: str, head_width: int, frames: int) -> nn.Module:
    if way == "convolution":
        return TimeConvolution(channels)
    return TimeAttention(channels, heads_of(channels, head_width), frames)


def _between(time: nn.Module, x: Tensor, frames: int) -> Tensor:
    """A layer of time over pictures, (B T) C H W."""
    clips = time(rearrange(x, "(b t) c h w -> b c t h w", t=frames))
    return rearrange(clips, "b c t h w -> (b t) c h w")
