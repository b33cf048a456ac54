"""The `noisy_earlier` conditioner: the earlier stage's video, corrupted, beside the latents."""

from __future__ import annotations

from typing import Annotated, Literal, final

from annotated_types import Gt, Le
from torch import Tensor

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, EarlierFact, LatentFact, OneSize
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Positive
from mutoscope.core.values import Batch, Conditioning
from mutoscope.plugins.video_diffusion.earlier import TOLD, Alignment, Corruption


@final
class NoisyEarlier(Conditioner):
    """The earlier stage's video with noise on it, enlarged to the latent cells, and how much noise there is.

    Noise conditioning augmentation, Ho et al. 2022, sec. 2.5, arXiv:2210.02303, after Ho et al. 2021,
    arXiv:2106.15282: a stage that has learned from all noise levels forgives the faults of the stage before it. Gives
    further channels of the input, and a pooled vector of the level. It is told with and without a prompt alike.

    fill: between stages of different frame rates every frame is repeated, or the frames between are blank and a
    further channel says which are there. most: largest noise level in training, of 1. snr: signal-to-noise ratio in
    sampling; the paper's is 3 or 5.
    """

    name = "noisy_earlier"
    paper = "Ho et al. 2022, arXiv:2210.02303"

    def __init__(
        self,
        earlier: EarlierFact,
        latents: Annotated[LatentFact, OneSize],
        *,
        fill: Literal["repeat", "blank"] = "repeat",
        most: Annotated[float, Gt(0.0), Le(1.0)] = 1.0,
        snr: Positive = 5.0,
    ) -> None:
        super().__init__()
        self.fill, self.alignment, self.corruption = fill, Alignment(earlier, latents), Corruption(most, snr)

    def forward(self, video: Tensor) -> Tensor:
        """B C T H W of the earlier stage to B C' T H W over the latent cells."""
        large = self.alignment.enlarged(self.alignment.folded(video))
        return self.alignment.repeated(large) if self.fill == "repeat" else self.alignment.blanked(large)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError on a batch without an earlier video."""
        if batch.earlier is None:
            raise InputError(field="conditioner", problem="noisy_earlier needs the video of an earlier stage")
        video, told = self.corruption(batch.earlier.to(draw.device), draw, self.training)
        return Conditioning(pooled=told, cells=self(video))

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(pooled=TOLD, cells=self.alignment.channels + (self.fill == "blank")),)
