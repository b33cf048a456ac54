"""A space-time U-Net over token grids, factorised in space and time."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.attention import CrossAttention, SelfAttention
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Heads, Width
from mutoscope.core.values import Conditioning, Tokens


@final
class UNet3d(LevelDenoiser):
    """Space-only convolutions with attention over time in between. Ho et al. 2022, sec. 3, arXiv:2204.03458.

    Each level: residual blocks (convolutions 1 x 3 x 3, scale and shift from the level and the pooled conditioning),
    then attention over time at each place; from level `attend` on also attention over each frame's places, and to the
    prompt's features. Rows and columns are halved between levels (rounded up), time never. It knows no known tokens.

    width: channels of the first level. multipliers: of the width, one per level. depth: residual blocks per level.
    attend: first level (from 0) with attention over space and to the prompt.
    """

    name = "unet3d"
    paper = "Ho et al. 2022, arXiv:2204.03458"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 64,
        multipliers: tuple[Count, ...] = (1, 2, 4),
        depth: Depth = 2,
        heads: Heads = 4,
        attend: int = 0,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers: a U-Net has at least one level")
        told = 4 * width
        self.width = width
        self.told = nn.Sequential(nn.Linear(width, told), nn.SiLU(), nn.Linear(told, told))
        self.pooled = nn.Linear(given.pooled, told) if given.pooled else None
        self.embed = nn.Conv3d(tokens.width, width, (1, 3, 3), padding=(0, 1, 1))
        widths = [width * m for m in multipliers]
        contexts = [given.sequence if i >= attend else 0 for i in range(len(widths))]
        spaces = [i >= attend for i in range(len(widths))]
        self.down, self.up, skips, before = nn.ModuleList(), nn.ModuleList(), [width], width
        for i, w in enumerate(widths):
            stages = [Stage(before if k == 0 else w, w, told, heads, contexts[i], spaces[i]) for k in range(depth)]
            halve = nn.Conv3d(w, w, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)) if i < len(widths) - 1 else None
            self.down.append(nn.ModuleDict({"stages": nn.ModuleList(stages), **({"halve": halve} if halve else {})}))
            skips += [w] * depth + ([w] if halve else [])
            before = w
        self.middle = Stage(before, before, told, heads, given.sequence, True)
        for i, w in reversed(list(enumerate(widths))):
            stages = []
            for _ in range(depth + 1):
                stages.append(Stage(before + skips.pop(), w, told, heads, contexts[i], spaces[i]))
                before = w
            enlarge = nn.Conv3d(w, w, (1, 3, 3), padding=(0, 1, 1)) if i else None
            self.up.append(
                nn.ModuleDict({"stages": nn.ModuleList(stages), **({"enlarge": enlarge} if enlarge else {})})
            )
        self.norm = nn.GroupNorm(_groups(before), before)
        self.out = nn.Conv3d(before, process.output_width(tokens), (1, 3, 3), padding=(0, 1, 1))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width, through the grid that regular tokens form."""
        c = self.told(sinusoid(level, self.width).to(self.embed.weight.dtype))
        if self.pooled is not None and conditioning.pooled is not None:
            c = c + self.pooled(conditioning.pooled)
        c = F.silu(c)
        context = conditioning.sequence, conditioning.mask
        x = self.embed(tokens.as_grid())
        kept = [x]
        for step in self.down:
            for stage in step["stages"]:  # type: ignore[index]
                x = stage(x, c, *context)
                kept.append(x)
            if "halve" in step:  # type: ignore[operator]
                x = step["halve"](x)  # type: ignore[index]
                kept.append(x)
        x = self.middle(x, c, *context)
        for step in self.up:
            for stage in step["stages"]:  # type: ignore[index]
                x = stage(torch.cat([x, kept.pop()], dim=1), c, *context)
            if "enlarge" in step:  # type: ignore[operator]
                x = step["enlarge"](F.interpolate(x, size=kept[-1].shape[2:], mode="nearest"))  # type: ignore[index]
        x = self.out(F.silu(self.norm(x)))
        return rearrange(x, "b d t h w -> b (t h w) d")


class Stage(nn.Module):
    """A residual block, then attention: over time, and where asked for over space and to the prompt."""

    def __init__(self, channels: int, out: int, told: int, heads: int, context: int, space: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(channels), channels)
        self.conv1 = nn.Conv3d(channels, out, (1, 3, 3), padding=(0, 1, 1))
        self.modulate = nn.Linear(told, 2 * out)
        self.norm2 = nn.GroupNorm(_groups(out), out)
        self.conv2 = nn.Conv3d(out, out, (1, 3, 3), padding=(0, 1, 1))
        self.skip = nn.Conv3d(channels, out, 1) if channels != out else nn.Identity()
        self.time = Residual(SelfAttention(out, heads), out)
        self.space = Residual(SelfAttention(out, heads), out) if space else None
        self.prompt = Residual(CrossAttention(out, context, heads), out) if context else None
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """B C T H W to B out T H W. c: B told. context: B L width, mask B L."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulate(c)[..., None, None, None].chunk(2, dim=1)
        x = self.skip(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        b, _, t, height, w = x.shape
        if self.space is not None:
            cells = self.space(rearrange(x, "b c t h w -> (b t) (h w) c"))
            x = rearrange(cells, "(b t) (h w) c -> b c t h w", b=b, h=height)
        if self.prompt is not None and context is not None:
            allowed = None if mask is None else mask[:, None, None]
            x = rearrange(
                self.prompt(rearrange(x, "b c t h w -> b (t h w) c"), context, allowed),
                "b (t h w) c -> b c t h w",
                t=t,
                h=height,
            )
        place = _frames(t, x.shape[1], x.device).to(x.dtype)
        times = self.time(rearrange(x, "b c t h w -> (b h w) t c"), place)
        return rearrange(times, "(b h w) t c -> b c t h w", b=b, h=height, w=w)


class Residual(nn.Module):
    """x + attention(norm(x) + positions, ...), the identity at the start."""

    def __init__(self, attention: SelfAttention | CrossAttention, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = attention
        nn.init.zeros_(attention.out.weight)
        nn.init.zeros_(attention.out.bias)

    def forward(self, x: Tensor, *given: Tensor | None) -> Tensor:
        h = self.norm(x)
        if isinstance(self.attention, CrossAttention):
            return x + self.attention(h, *given)  # type: ignore[arg-type]
        return x + self.attention(h + given[0] if given else h)


def _frames(count: int, width: int, device: torch.device) -> Tensor:
    """Fixed embedding of frame numbers, T width."""
    return sinusoid(torch.arange(count, device=device), width)


def _groups(channels: int) -> int:
    """The most groups up to 8 that divide the channels."""
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)
