"""The denoiser `ldm_unet`."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import PictureDenoiser, PictureLayer
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.norms import GroupNorm
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Natural, Share, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.unets.blocks import (
    Attention,
    Double,
    Halve,
    Modulate,
    Residual,
    Told,
    silenced,
)
from mutoscope.plugins.diffusion.unets.folding import each_frame, inputs, of_frames, pictures, rows
from mutoscope.plugins.diffusion.unets.skeleton import Step, U


@final
class LdmUNet(PictureDenoiser):
    """The U-Net of latent diffusion, one picture per frame. Rombach et al. 2022, sec. 3.3, arXiv:2112.10752.

    ADM's blocks with, in place of its attention, transformers whose places also attend to the prompt's features. A
    pooled vector without a sequence is a prompt of one feature, as the released class-conditional models have it; with
    neither, attention is ADM's. The order is self-attention, cross-attention, feed-forward, as the released code runs.
    Frames do not see each other.

    width, multipliers, depth, attend: as in `adm`. transformer: blocks at each place that attends. heads: of every
    attention; 0 for as many as `head_width` gives. modulate, resample: of the residual blocks.
    """

    name = "ldm_unet"
    paper = "Rombach et al. 2022, arXiv:2112.10752"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1, "attend": (2,), "head_width": 8}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 192,
        multipliers: tuple[Count, ...] = (1, 2, 3, 5),
        depth: Depth = 2,
        attend: tuple[Count, ...] = (2, 4, 8),
        transformer: Depth = 1,
        heads: Natural = 0,
        head_width: Width = 32,
        modulate: Modulate = "add",
        resample: Literal["residual", "convolution"] = "convolution",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers: a U-Net has at least one level")
        told, widths, inside = 4 * width, [width * m for m in multipliers], resample == "residual"
        self.width, self.patch = width, tokens.patch
        self.one_feature = not given.sequence
        context = given.sequence or given.pooled

        def attention(channels: int) -> nn.Module:
            count = heads or max(1, channels // head_width)
            if not context:
                return Attention(channels, count)
            return Transformer(channels, context, count, transformer)

        # The level alone: what is said of the clip enters by cross-attention.
        self.told = Told(ConditioningFact(per_frame=given.per_frame), width, told)
        self.embed = nn.Conv2d(inputs(tokens, given), widths[0], 3, padding=1)
        self.body = U(
            widths[0],
            widths,
            depth,
            attend,
            block=lambda channels, out: Residual(channels, out, told, modulate, "none", dropout),
            attention=attention,
            down=lambda c: Residual(c, c, told, modulate, "down", dropout) if inside else Halve(c),
            up=lambda c: Residual(c, c, told, modulate, "up", dropout) if inside else Double(c),
        )
        self.norm = GroupNorm(widths[0])
        self.out = silenced(nn.Conv2d(widths[0], process.output_width(tokens), 3, padding=1))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        frames, context, mask = conditioning.per_frame, conditioning.sequence, conditioning.mask
        if self.one_feature:
            context, mask = None if conditioning.pooled is None else conditioning.pooled[:, None], None
        told = self.told(
            each_frame(sinusoid(level, self.width), tokens),
            None,
            None if frames is None else of_frames(frames, tokens, self.patch),
        )
        seen = None if mask is None else mask[:, None, None]
        x = self.embed(pictures(tokens, conditioning, self.patch))
        x = self.body(x, told, each_frame(context, tokens), each_frame(seen, tokens))
        return rows(self.out(F.silu(self.norm(x))), tokens)

    def layers(self) -> list[PictureLayer]:
        found, stride = [], 1
        for step in (*self.body.down, self.body.middle, self.body.end, *self.body.up):
            if isinstance(step, Step) or step is self.body.end:
                block = step.block if isinstance(step, Step) else step
                channels = block.conv2.out_channels  # type: ignore[union-attr]
                found.append(PictureLayer(block, int(channels), stride, 4 * self.width))  # type: ignore[arg-type]
                if isinstance(step, Step) and step.attention is not None:
                    found.append(PictureLayer(step.attention, int(channels), stride, 0))  # type: ignore[arg-type]
            elif any(step is module for module in self.body.down):
                stride *= 2
            else:
                stride //= 2
        return found


class Transformer(nn.Module):
    """Places of a picture as tokens: norm, projection, blocks, zero projection, plus the input. Its app. E.2.1."""

    def __init__(self, channels: int, context: int, heads: int, depth: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads: {heads} heads do not divide {channels} channels")
        self.norm = GroupNorm(channels, 1e-6)
        self.embed = nn.Conv2d(channels, channels, 1)
        self.blocks = nn.ModuleList(Block(channels, context, heads) for _ in range(depth))
        self.out = silenced(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """x: B C H W. context: B L D. mask: B 1 1 L."""
        cells = rearrange(self.embed(self.norm(x)), "b c h w -> b (h w) c")
        for block in self.blocks:
            cells = block(cells, context, mask)
        return x + self.out(rearrange(cells, "b (h w) c -> b c h w", h=x.shape[2]))


class Block(nn.Module):
    """Self-attention, cross-attention and a gated feed-forward layer, each with its norm before it."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = Mix(width, width, heads)
        self.prompt = Mix(width, context, heads)
        self.up, self.down = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        h = self.norm1(x)
        x = x + self.places(h, h)
        if context is not None:
            x = x + self.prompt(self.norm2(x), context, mask)
        value, gate = self.up(self.norm3(x)).chunk(2, dim=-1)
        return x + self.down(value * F.gelu(gate))


class Mix(nn.Module):
    """Attention whose queries, keys and values have no bias."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(context, width, bias=False)
        self.v = nn.Linear(context, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """B N width and B L context to B N width. mask: B 1 1 L, true where it may be seen."""
        q, k, v = (
            rearrange(layer(y), "b n (h d) -> b h n d", h=self.heads)
            for layer, y in ((self.q, x), (self.k, context), (self.v, context))
        )
        return self.out(rearrange(scaled_attention(q, k, v, mask=mask), "b h n d -> b n (h d)"))
