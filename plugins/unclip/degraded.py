"""The `degraded` conditioner: the earlier stage's video, spoilt a little in training, beside the latents."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, EarlierFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import NonNegative
from mutoscope.core.values import Batch, Conditioning

Range = tuple[NonNegative, NonNegative]
"""Least and most; drawn evenly between them for every clip."""
KERNEL = 3


@final
class Degraded(Conditioner):
    """The earlier stage's video, blurred and noisy in training, enlarged to the latent cells, as further channels.

    What an upsampler learns from are clean pictures made small; what it is given are samples. Ramesh et al. 2022,
    sec. 2.1: a Gaussian blur for the first upsampler; for the second the paper takes the degradation of Zhang et al.
    2021, of which blur and noise of drawn strengths are here, and compression is not. In sampling nothing is spoilt.

    blur: deviation of a kernel of 3 x 3, in pixels of the earlier video; the paper's first is 0.6. noise: deviation of
    Gaussian noise, in units of [-1, 1].
    """

    name = "degraded"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"

    def __init__(
        self, earlier: EarlierFact, latents: LatentFact, *, blur: Range = (0.6, 0.6), noise: Range = (0.0, 0.0)
    ) -> None:
        super().__init__()
        for word, (least, most) in (("blur", blur), ("noise", noise)):
            if least > most:
                raise ValueError(f"{word}: the least is more than the most")
        self.channels, self.blur, self.noise = earlier.channels, blur, noise
        before = (earlier.frames, *earlier.size)
        self.ratios = tuple(now / then for now, then in zip(latents.grid, before, strict=True))

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError on a batch without an earlier video."""
        if batch.earlier is None:
            raise InputError(field="conditioner", problem="degraded needs the video of an earlier stage")
        video = batch.earlier.to(draw.device)
        return Conditioning(cells=self(self.spoilt(video, draw) if self.training else video))

    def spoilt(self, video: Tensor, draw: Draw) -> Tensor:
        """B C T H W, each clip by its own strengths."""
        if self.blur[1] > 0:
            video = blurred(video, between(self.blur, draw.uniform("blur").view(-1)))
        if self.noise[1] > 0:
            strength = between(self.noise, draw.uniform("noise").view(-1))
            video = video + strength.view(-1, 1, 1, 1, 1) * draw.normal("grain", *video.shape[1:])
        return video

    def forward(self, video: Tensor) -> Tensor:
        """B C T H W of the earlier stage to B C T H W over the latent cells; a frame is the nearest earlier one."""
        t, h, w = (round(n * ratio) for n, ratio in zip(video.shape[2:], self.ratios, strict=True))
        frames = F.interpolate(video, size=(t, *video.shape[3:]), mode="nearest") if t != video.shape[2] else video
        flat = rearrange(frames, "b c t h w -> (b t) c h w")
        large = F.interpolate(flat, size=(h, w), mode="bilinear", align_corners=False)
        return rearrange(large, "(b t) c h w -> b c t h w", t=t)

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(cells=self.channels),)


def between(ends: tuple[float, float], share: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * share


def blurred(video: Tensor, deviation: Tensor) -> Tensor:
    """B C T H W, each clip by a Gaussian kernel of its own deviation, B numbers; edges mirror."""
    _, c, t, h, w = video.shape
    x = torch.arange(KERNEL, device=video.device) - KERNEL // 2
    weights = torch.exp(-0.5 * (x / deviation.clamp(min=1e-3)[:, None]).square())
    weights = weights / weights.sum(dim=1, keepdim=True)
    kernel = (weights[:, :, None] * weights[:, None]).repeat_interleave(c * t, dim=0)[:, None]
    mode = "reflect" if min(h, w) > 1 else "replicate"
    flat = F.pad(rearrange(video, "b c t h w -> 1 (b c t) h w"), (KERNEL // 2,) * 4, mode=mode)
    return F.conv2d(flat, kernel.to(video.dtype), groups=len(kernel)).view(video.shape)
