"""Layers of time put between the layers of a network of pictures, each mixed in by a learned share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.norms import GroupNorm


class UnderWay:
    """What the layers of time must know of the pass under way. frames: of each clip. context: maps B C T H W of what is
    known of the frames, by rows and columns; none where nothing is."""

    def __init__(self) -> None:
        self.frames = 1
        self.context: dict[tuple[int, int], Tensor] = {}


class Mixed(nn.Module):
    """alpha z + (1 - alpha) z', z' what a layer of time makes of z, alpha between 0 and 1 and learned.

    Blattmann et al. 2023, sec. 3.1, arXiv:2304.08818, a scalar for each layer. With alpha = 1 the layer is not there.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.logit = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, *given: Any) -> Tensor:
        """B C T H W to the same."""
        alpha = torch.sigmoid(self.logit)
        return alpha * z + (1 - alpha) * self.layer(z, *given)


class After:
    """Called after a layer of pictures: puts a layer of time behind it. An image's one frame passes by."""

    def __init__(self, mixed: Mixed, under_way: UnderWay) -> None:
        self.mixed, self.under_way = mixed, under_way

    def __call__(self, module: nn.Module, given: tuple[Any, ...], pictures: Tensor) -> Tensor:
        frames = self.under_way.frames
        if frames == 1:
            return pictures
        clips = rearrange(pictures, "(b t) c h w -> b c t h w", t=frames)
        made = self.mixed(clips, self.under_way, *given[1:])
        return rearrange(made, "b c t h w -> (b t) c h w")


class TimeResidual(nn.Module):
    """A residual block of convolutions over three frames; the identity at first. Its sec. 3.1.1 and fig. 4.

    told: width of what is told of each picture, 0 for nothing. context: channels of the maps of known frames, 0 for
    none.
    """

    def __init__(self, channels: int, told: int = 0, context: int = 0) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(channels), nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.told = nn.Linear(told, channels) if told else None
        self.context = nn.Conv3d(context, channels, 1) if context else None
        self.norm2, self.conv2 = GroupNorm(channels), nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, under_way: UnderWay, told: Tensor | None = None, *rest: Any) -> Tensor:
        """x: B C T H W. told: (B T) D."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.told is not None and told is not None:
            h = h + rearrange(self.told(told), "(b t) c -> b c t 1 1", t=x.shape[2])
        if self.context is not None and under_way.context:
            h = h + self.context(under_way.context[x.shape[3], x.shape[4]])
        return x + self.conv2(F.silu(self.norm2(h)))


class TimeTransformer(nn.Module):
    """Feed-forward layer, attention over the frames of each place, attention to the prompt, feed-forward layer.

    Its sec. 3.1 and app. D: frames are numbered by sinusoids through an MLP. Queries, keys and values have no bias,
    feed-forward layers are gated, as in the image model; with that the counts are the published ones. Every branch is
    zero at first. context: width of the prompt's features, 0 for none. Raises ValueError where heads do not divide the
    channels.
    """

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads: {heads} heads do not divide {channels} channels")
        self.width = channels
        self.number = nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels))
        self.first, self.last = FeedForward(channels), FeedForward(channels)
        self.norm1, self.time = nn.LayerNorm(channels), Attention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels) if context else None
        self.prompt = Attention(channels, context, heads) if context else None

    def forward(
        self, x: Tensor, under_way: UnderWay, context: Tensor | None = None, mask: Tensor | None = None, *rest: Any
    ) -> Tensor:
        """x: B C T H W. context: (B T) L D; mask: (B T) 1 1 L."""
        b, _, t, h, _ = x.shape
        number = self.number(sinusoid(torch.arange(t, device=x.device), self.width).to(x.dtype))
        rows = rearrange(x, "b c t h w -> (b h w) t c") + number
        rows = self.first(rows)
        own = self.norm1(rows)
        rows = rows + self.time(own, own)
        if self.prompt is not None and self.norm2 is not None and context is not None:
            clips = rearrange(rows, "(b n) t c -> b (n t) c", b=b)
            clips = clips + self.prompt(self.norm2(clips), context[::t], None if mask is None else mask[::t])
            rows = rearrange(clips, "b (n t) c -> (b n) t c", t=t)
        rows = self.last(rows) - number
        return rearrange(rows, "(b h w) t c -> b c t h w", b=b, h=h)


class FeedForward(nn.Module):
    """x + a gated feed-forward layer of its norm; the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 8 * width), nn.Linear(4 * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(value * F.gelu(gate))


class Attention(nn.Module):
    """Attention whose queries, keys and values have no bias; zero at first."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(n, width, bias=False) for n in (width, context, context))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """B N width and B L context to B N width. mask: B 1 1 L, true where it may be seen."""
        pairs = (self.q, x), (self.k, context), (self.v, context)
        q, k, v = (rearrange(layer(y), "b n (h d) -> b h n d", h=self.heads) for layer, y in pairs)
        return self.out(rearrange(scaled_attention(q, k, v, mask=mask), "b h n d -> b n (h d)"))


class Ladder(nn.Module):
    """Maps of what is known of the frames, at the size of every level: a learned downsampling. Its sec. 3.2."""

    def __init__(self, cells: int, width: int, levels: int) -> None:
        super().__init__()
        first = nn.Conv3d(cells, width, (1, 3, 3), padding=(0, 1, 1))
        more = [nn.Conv3d(width, width, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)) for _ in range(levels - 1)]
        self.steps = nn.ModuleList([first, *more])

    def forward(self, cells: Tensor) -> dict[tuple[int, int], Tensor]:
        """B C T H W to B width T H' W', by rows and columns."""
        found, x = {}, cells
        for i, step in enumerate(self.steps):
            x = step(F.silu(x) if i else x)
            found[x.shape[3], x.shape[4]] = x
        return found
