"""The `enlarged` conditioner: the earlier stage's video beside the latents."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, EarlierFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning


@final
class Enlarged(Conditioner):
    """The earlier stage's video, enlarged bilinearly to the latent cells, as further channels of the input.

    The upsampler of Nichol & Dhariwal 2021 and Dhariwal & Nichol 2021, app. A. Between stages of different frame
    rates a frame is the nearest earlier one.
    """

    name = "enlarged"
    paper = "Nichol & Dhariwal 2021, arXiv:2102.09672"

    def __init__(self, earlier: EarlierFact, latents: LatentFact) -> None:
        super().__init__()
        self.channels = earlier.channels
        before = (earlier.frames, *earlier.size)
        self.ratios = tuple(now / then for now, then in zip(latents.grid, before, strict=True))

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError on a batch without an earlier video."""
        if batch.earlier is None:
            raise InputError(field="conditioner", problem="enlarged needs the video of an earlier stage")
        return Conditioning(cells=self(batch.earlier.to(draw.device)))

    def forward(self, video: Tensor) -> Tensor:
        """B C T H W of the earlier stage to B C T H W over the latent cells."""
        t, h, w = (round(n * ratio) for n, ratio in zip(video.shape[2:], self.ratios, strict=True))
        frames = F.interpolate(video, size=(t, *video.shape[3:]), mode="nearest") if t != video.shape[2] else video
        flat = rearrange(frames, "b c t h w -> (b t) c h w")
        large = F.interpolate(flat, size=(h, w), mode="bilinear", align_corners=False)
        return rearrange(large, "(b t) c h w -> b c t h w", t=t)

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(cells=self.channels),)
