"""The `first_frames` conditioner: a 3-D residual network looks at the frames that a clip begins with."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, final

import torch
from annotated_types import MaxLen, MinLen
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact, ConditioningFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Cube, Width
from mutoscope.core.values import Batch, Conditioning


@final
class FirstFrames(Conditioner):
    """Features of the first frames, as a sequence, learned with the denoiser. Yan et al. 2021, sec. 3.2 and 4.2.

    A residual network of 34 layers with three-dimensional kernels (He et al. 2016, arXiv:1512.03385, whose first layer
    is of three and does not halve) and learned positions of time, rows and columns side by side. A request that shows
    no frames gets those of a training clip, drawn from some that are kept.

    frames: how many it looks at. width: of the first layer and group; it doubles twice. features: of the last group,
    what is given; a multiple of three. stride: cells that become one, powers of two up to eight. blocks: of the four
    groups. kept: training clips whose first frames are kept.
    """

    name = "first_frames"
    paper = "Yan et al. 2021, arXiv:2104.10157"
    mixes_batch = True
    tiny: ClassVar[dict[str, Any]] = {"width": 4, "features": 6, "blocks": (1, 1, 1, 1), "kept": 4}

    def __init__(
        self,
        clip: ClipFact,
        *,
        frames: Count = 1,
        width: Width = 64,
        features: Width = 240,
        stride: Cube = (1, 4, 4),
        blocks: Annotated[tuple[Count, ...], MinLen(4), MaxLen(4)] = (3, 4, 6, 3),
        kept: Count = 64,
    ) -> None:
        super().__init__()
        if features % 3:
            raise InputError(
                field="features", problem="divides by 3: positions of three axes side by side", got=features
            )
        if clip.mixed:
            raise InputError(field="conditioner", problem="first_frames looks at clips of one size")
        halvings = [n.bit_length() - 1 for n in stride]
        if any(n & (n - 1) for n in stride) or max(halvings) > 3:
            raise InputError(field="stride", problem="is of powers of two up to eight", got=list(stride))
        if any(n % s for n, s in zip((frames, *clip.size), stride, strict=True)):
            said = f"does not divide {frames} frames of {clip.size[0]} x {clip.size[1]}"
            raise InputError(field="stride", problem=said, got=list(stride))
        self.sees, self.features = frames, features
        self.grid = tuple(n // s for n, s in zip((frames, *clip.size), stride, strict=True))
        self.stem = nn.Sequential(
            nn.Conv3d(clip.channels, width, 3, 1, 1, bias=False), nn.BatchNorm3d(width), nn.ReLU()
        )
        widths, groups = (width, width, 2 * width, 4 * width, features), []
        for i, count in enumerate(blocks):
            step = tuple(2 if i and n >= i else 1 for n in halvings)
            groups.append(Residual(widths[i], widths[i + 1], step, project=True))
            groups += [Residual(widths[i + 1], widths[i + 1]) for _ in range(count - 1)]
        self.groups = nn.Sequential(*groups)
        self.places = nn.ParameterList(nn.Parameter(0.01 * torch.randn(n, features // 3)) for n in self.grid)
        self.register_buffer("memory", torch.zeros(kept, clip.channels, frames, *clip.size))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def forward(self, video: Tensor) -> Tensor:
        """B C n H W of first frames to B L D."""
        x = rearrange(self.groups(self.stem(video)), "b d t h w -> b t h w d")
        t, h, w = self.grid
        own = self.features // 3
        axes = [
            self.places[0][:, None, None].expand(t, h, w, own),
            self.places[1][None, :, None].expand(t, h, w, own),
            self.places[2][None, None].expand(t, h, w, own),
        ]
        return (x + torch.cat(axes, dim=-1)).flatten(1, 3)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        if batch.opening is not None:
            shown = batch.opening[:, :, : self.sees]
            if self.training:
                self._keep(shown, draw)
        else:
            shown = self.memory[(draw.uniform("first_frames") * self.filled.clamp(min=1)).long()]
        sequence = self(shown)
        return Conditioning(sequence=sequence, mask=torch.ones_like(sequence[..., 0], dtype=torch.bool))

    @torch.no_grad()
    def _keep(self, shown: Tensor, draw: Draw) -> None:
        """Writes over the oldest: a function of the step alone."""
        kept = len(self.memory)
        place = (torch.arange(len(shown), device=shown.device) + draw.step * len(shown)) % kept
        self.memory[place[-kept:]] = shown.detach().to(self.memory)[-kept:]
        self.filled.copy_((self.filled + len(shown)).clamp(max=kept))

    def facts(self) -> tuple[ConditioningFact, ...]:
        t, h, w = self.grid
        return (ConditioningFact(sequence=self.features, length=t * h * w),)


class Residual(nn.Module):
    """Two convolutions of three, each with a norm and a ReLU, beside a shortcut, which a group's first one projects."""

    def __init__(self, channels: int, out: int, stride: tuple[int, ...] = (1, 1, 1), project: bool = False) -> None:
        super().__init__()
        step = (stride[0], stride[1], stride[2])
        self.convs = nn.Sequential(
            nn.Conv3d(channels, out, 3, step, 1, bias=False),
            nn.BatchNorm3d(out),
            nn.ReLU(),
            nn.Conv3d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm3d(out),
            nn.ReLU(),
        )
        self.skip = (
            nn.Sequential(nn.Conv3d(channels, out, 1, step, bias=False), nn.BatchNorm3d(out))
            if project
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convs(x) + self.skip(x))
