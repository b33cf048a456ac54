"""The tower `adm_classifier`: it tells the class of a noisy clip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.facts import ClassifierFact, ClipFact, ConditioningFact, Labelled
from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.norms import GroupNorm
from mutoscope.core.settings import Count, Depth, Positive, Share, Width
from mutoscope.core.tower import Tower
from mutoscope.core.values import Features
from mutoscope.plugins.diffusion.unets.blocks import Attention, Halve, Residual, Told
from mutoscope.plugins.diffusion.unets.skeleton import Step


@final
class AdmClassifier(Tower):
    """The way down of ADM's U-Net and a pooling by attention, one picture per frame. Dhariwal & Nichol 2021, sec. 4.

    A clip's logits are the mean over its frames. Trained on noisy clips (`classify_noisy`), it guides a sampler
    (`classifier_guided`).

    width, multipliers, depth, attend, head_width, resample, dropout: as in the denoiser `adm`.
    """

    name = "adm_classifier"
    paper = "Dhariwal & Nichol 2021, arXiv:2105.05233"
    tiny = {"width": 16, "multipliers": (1, 2), "depth": 1, "attend": (2,), "head_width": 8}  # noqa: RUF012

    def __init__(
        self,
        clip: Annotated[ClipFact, Labelled],
        *,
        width: Width = 128,
        multipliers: tuple[Positive, ...] = (1, 2, 3, 4),
        depth: Depth = 4,
        attend: tuple[Count, ...] = (2, 4, 8),
        head_width: Width = 64,
        resample: Literal["residual", "convolution"] = "residual",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers: a classifier has at least one level")
        told, widths = 4 * width, [int(width * m) for m in multipliers]
        self.clip, self.width = clip, width
        self.told = Told(ConditioningFact(), width, told)
        self.embed = nn.Conv2d(clip.channels, widths[0], 3, padding=1)

        def step(channels: int, out: int, attends: bool) -> Step:
            heads = max(1, out // head_width)
            return Step(Residual(channels, out, told, dropout=dropout), Attention(out, heads) if attends else None)

        self.down, before = nn.ModuleList(), widths[0]
        for level, now in enumerate(widths):
            for _ in range(depth):
                self.down.append(step(before, now, 2**level in attend))
                before = now
            if level < len(widths) - 1:
                inside = Residual(now, now, told, resample="down", dropout=dropout)
                self.down.append(inside if resample == "residual" else Halve(now))
        self.down.append(step(before, before, True))
        self.down.append(step(before, before, False))
        self.norm = GroupNorm(before)
        halvings = 2 ** (len(widths) - 1)
        places = tuple(-(-n // halvings) for n in clip.size)
        self.pool = Pool(before, clip.classes, (places[0], places[1]), max(1, before // head_width))

    def forward(self, video: Tensor, level: Tensor) -> Tensor:
        """Logits B classes of B C T H W at levels B, in the coordinate of a denoiser's."""
        frames = video.shape[2]
        told = self.told(sinusoid(level, self.width).repeat_interleave(frames, dim=0), None, None)
        x = self.embed(rearrange(video, "b c t h w -> (b t) c h w"))
        for step in self.down:
            x = step(x, told, None, None) if isinstance(step, Step) else step(x, told)
        logits = self.pool(F.silu(self.norm(x)))
        return rearrange(logits, "(b t) k -> b t k", t=frames).mean(dim=1)

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        level = torch.zeros(len(video), device=video.device) if level is None else level
        return Features(logits=self(video, level))

    def facts(self) -> Iterable[Any]:
        """Itself, for the sampler that it guides."""
        return (ClassifierFact(self, self.clip.classes, self.clip.channels),)


class Pool(nn.Module):
    """Attention from the mean over places to all of them, with learned positions. Radford et al. 2021, sec. 2.3."""

    def __init__(self, channels: int, out: int, places: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, places
        self.positions = nn.Parameter(torch.randn(places[0] * places[1] + 1, channels) / channels**0.5)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W to B out. Positions are stretched linearly to another size than the training clips'."""
        size = (x.shape[2], x.shape[3])
        cells = rearrange(x, "b c h w -> b (h w) c")
        cells = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + self._positions(size).to(x.dtype)
        q, k, v = rearrange(self.qkv(cells), "b n (three h d) -> three b h n d", three=3, h=self.heads).unbind(0)
        seen = scaled_attention(q, k, v)
        return self.out(rearrange(seen, "b h n d -> b n (h d)")[:, 0])

    def _positions(self, size: tuple[int, int]) -> Tensor:
        if size == self.size:
            return self.positions
        grid = rearrange(self.positions[1:], "(h w) c -> 1 c h w", h=self.size[0])
        grid = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        return torch.cat([self.positions[:1], rearrange(grid, "1 c h w -> (h w) c")])
