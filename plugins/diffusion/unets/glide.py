"""The denoiser `glide`: ADM's U-Net that also looks at a text."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Prompted, Regular, TokenFact
from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.norms import GroupNorm
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Positive, Share, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.unets.blocks import Residual, Told, silenced
from mutoscope.plugins.diffusion.unets.folding import each_frame, inputs, of_frames, pictures, rows
from mutoscope.plugins.diffusion.unets.skeleton import U


@final
class Glide(LevelDenoiser):
    """ADM's U-Net whose attention sees the text's features beside the picture's places. Nichol et al. 2022, sec. 3.1,
    arXiv:2112.10741; the decoder of unCLIP (Ramesh et al. 2022, sec. 2.1), whose image embedding comes as a pooled
    vector, added to the level's, and as further tokens of the sequence.

    width, multipliers, depth, attend, head_width, dropout: as in `adm`.
    """

    name = "glide"
    paper = "Nichol et al. 2022, arXiv:2112.10741"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1, "attend": (2,), "head_width": 8}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: Annotated[ConditioningFact, Prompted],
        process: LevelProcess,
        *,
        width: Width = 192,
        multipliers: tuple[Positive, ...] = (1, 2, 3, 4),
        depth: Depth = 3,
        attend: tuple[Count, ...] = (2, 4, 8),
        head_width: Width = 64,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers: a U-Net has at least one level")
        told, widths = 4 * width, [int(width * m) for m in multipliers]
        self.width, self.patch = width, tokens.patch
        self.told = Told(given, width, told)
        self.embed = nn.Conv2d(inputs(tokens, given), widths[0], 3, padding=1)
        self.body = U(
            widths[0],
            widths,
            depth,
            attend,
            block=lambda channels, out: Residual(channels, out, told, dropout=dropout),
            attention=lambda channels: ReadingAttention(channels, given.sequence, max(1, channels // head_width)),
            down=lambda c: Residual(c, c, told, resample="down", dropout=dropout),
            up=lambda c: Residual(c, c, told, resample="up", dropout=dropout),
        )
        self.norm = GroupNorm(widths[0])
        self.out = silenced(nn.Conv2d(widths[0], process.output_width(tokens), 3, padding=1))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        frames = conditioning.per_frame
        told = self.told(
            each_frame(sinusoid(level, self.width), tokens),
            each_frame(conditioning.pooled, tokens),
            None if frames is None else of_frames(frames, tokens, self.patch),
        )
        text, mask = each_frame(conditioning.sequence, tokens), each_frame(conditioning.mask, tokens)
        x = self.body(self.embed(pictures(tokens, conditioning, self.patch)), told, text, mask)
        return rows(self.out(F.silu(self.norm(x))), tokens)


class ReadingAttention(nn.Module):
    """Places attend to all places and to a text, in one softmax; the identity at first. Nichol et al. 2022, sec. 3.1.

    context: width of the text's features. Raises ValueError where heads do not divide the channels.
    """

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads: {heads} heads do not divide {channels} channels")
        self.heads = heads
        self.norm = GroupNorm(channels)
        self.qkv, self.kv = nn.Linear(channels, 3 * channels), nn.Linear(context, 2 * channels)
        self.out = silenced(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """B C H W to the same. context: B L width. mask: B L, true for what is no padding."""
        cells = rearrange(self.norm(x), "b c y x -> b (y x) c")
        q, k, v = rearrange(self.qkv(cells), "b n (three h d) -> three b h n d", three=3, h=self.heads).unbind(0)
        seen = None
        if context is not None:
            read = rearrange(self.kv(context.to(x.dtype)), "b l (two h d) -> two b h l d", two=2, h=self.heads)
            k, v = (torch.cat(pair, dim=2) for pair in ((read[0], k), (read[1], v)))
            if mask is not None:
                seen = F.pad(mask, (0, cells.shape[1]), value=True)[:, None, None]
        mixed = self.out(rearrange(scaled_attention(q, k, v, mask=seen), "b h n d -> b n (h d)"))
        return x + rearrange(mixed, "b (y x) c -> b c y x", y=x.shape[2])
