"""The `depth_to_space` conditioner: the earlier stage's video, corrupted, enlarged by a learned convolution."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Gt, Le
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, EarlierFact, LatentFact, OneSize
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Positive, Width
from mutoscope.core.values import Batch, Conditioning
from mutoscope.plugins.video_diffusion.earlier import TOLD, Alignment, Corruption


@final
class DepthToSpace(Conditioner):
    """The earlier stage's video with noise on it, enlarged by a convolution whose channels become places.

    As W.A.L.T's super-resolution stages are told of the stage before them (Gupta et al. 2023, sec. 3.5,
    arXiv:2312.06662); the noise level is a pooled vector, which modulates the layers. Stages of different frame rates
    repeat frames.

    width: channels over the latent cells. most, snr: largest noise level in training, of 1, and signal-to-noise ratio
    in sampling.
    """

    name = "depth_to_space"
    paper = "Gupta et al. 2023, arXiv:2312.06662"

    def __init__(
        self,
        earlier: EarlierFact,
        latents: Annotated[LatentFact, OneSize],
        *,
        width: Width = 16,
        most: Annotated[float, Gt(0.0), Le(1.0)] = 1.0,
        snr: Positive = 5.0,
    ) -> None:
        super().__init__()
        self.width, self.alignment, self.corruption = width, Alignment(earlier, latents), Corruption(most, snr)
        if any(ratio != round(ratio) for ratio in self.alignment.ratios):
            raise ValueError("view: rows and columns of two stages have no whole ratio")
        self.times = tuple(round(ratio) for ratio in self.alignment.ratios)
        made = width * self.times[0] * self.times[1]
        self.enlarge = nn.Conv3d(self.alignment.channels, made, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, video: Tensor) -> Tensor:
        """B C T H W of the earlier stage to B width T H W over the latent cells."""
        h, w = self.times
        deep = self.enlarge(self.alignment.folded(video))
        return self.alignment.repeated(rearrange(deep, "b (c j k) t y x -> b c t (y j) (x k)", j=h, k=w))

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError on a batch without an earlier video."""
        if batch.earlier is None:
            raise InputError(field="conditioner", problem="depth_to_space needs the video of an earlier stage")
        video, told = self.corruption(batch.earlier.to(draw.device), draw, self.training)
        return Conditioning(pooled=told, cells=self(video))

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(pooled=TOLD, cells=self.width),)
