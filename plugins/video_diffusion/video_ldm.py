"""The denoiser `video_ldm`: layers of time in an image model, told of known frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, final

from einops import rearrange
from torch import Tensor

from mutoscope.core.component import Facts, Nested
from mutoscope.core.denoiser import PictureDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.video_diffusion.between import Ladder
from mutoscope.plugins.video_diffusion.inflated import Inflated


@final
class VideoLdm(Inflated):
    """Video latent diffusion. Blattmann et al. 2023, sec. 3.1 and 3.2, arXiv:2304.08818.

    After every residual block of the image model a residual block over time, after every layer of attention one over
    time that also attends to the prompt; each is mixed in by a learned share alpha, and with alpha = 1 the frames are
    the image model's. Conditioning cells, such as known frames and their mask (`masked_frames`), go to the residual
    blocks over time alone, through a learned downsampling, so that the image model stays what it was. An image is a
    clip of one frame, which is the image model's affair: `joint_images` with a share of 1 trains that, and `time_only`
    then the rest.

    image: the image model. head_width: least width of a head over time. context: channels of the downsampled cells.
    """

    name = "video_ldm"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"
    tiny = {  # noqa: RUF012
        "image": Nested("ldm_unet", {"width": 16, "multipliers": (1, 2), "depth": 1, "attend": (2,), "head_width": 8}),
        "head_width": 8,
        "context": 8,
    }

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        image: PictureDenoiser = Nested("ldm_unet"),  # type: ignore[assignment]
        head_width: Width = 64,
        context: Width = 64,
    ) -> None:
        patch = tokens.patch
        cells, levels = given.cells * patch[0] * patch[1] * patch[2], max(layer.stride for layer in image.layers())
        super().__init__(image, given, head_width, context if cells else 0)
        self.patch = patch
        self.ladder = Ladder(cells, context, levels.bit_length()) if cells else None

    @classmethod
    def lend(cls, facts: Facts) -> Iterable[Any]:
        """The conditioning without cells: the image model is not told of other frames."""
        given = facts.get(ConditioningFact)
        return () if given is None else (replace(given, cells=0),)

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        context: dict[tuple[int, int], Tensor] = {}
        if self.ladder is not None and conditioning.cells is not None and tokens.grids[0].frames > 1:
            i, j, k = self.patch
            cut = rearrange(conditioning.cells, "b c (t i) (h j) (w k) -> b (c i j k) t h w", i=i, j=j, k=k)
            context = self.ladder(cut.to(tokens.filled().dtype))
        return self.pictured(tokens, level, replace(conditioning, cells=None), context)
