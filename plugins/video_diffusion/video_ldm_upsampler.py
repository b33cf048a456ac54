"""The denoiser `video_ldm_upsampler`: layers of time in an image upsampler."""

from __future__ import annotations

from typing import Annotated, final

from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.denoiser import PictureDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.video_diffusion.inflated import Inflated


@final
class VideoLdmUpsampler(Inflated):
    """Video latent diffusion's upsampler. Blattmann et al. 2023, sec. 3.4, arXiv:2304.08818.

    As `video_ldm`, but the conditioning cells, the earlier stage's corrupted video, go into the image model beside its
    input, frame by frame, as an image upsampler has them; the layers of time make its frames agree. It learns from
    crops (`on_crops`).

    image: the image upsampler. head_width: least width of a head over time.
    """

    name = "video_ldm_upsampler"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"
    tiny = {  # noqa: RUF012
        "image": Nested("ldm_unet", {"width": 16, "multipliers": (1, 2), "depth": 1, "attend": (2,), "head_width": 8}),
        "head_width": 8,
    }

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        image: PictureDenoiser = Nested("ldm_unet"),  # type: ignore[assignment]
        head_width: Width = 64,
    ) -> None:
        super().__init__(image, given, head_width)

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        return self.pictured(tokens, level, conditioning, {})
