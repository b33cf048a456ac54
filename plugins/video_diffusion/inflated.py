"""What denoisers share that put layers of time into an image model."""

from __future__ import annotations

from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser, PictureDenoiser
from mutoscope.core.facts import ConditioningFact
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.video_diffusion.between import After, Mixed, TimeResidual, TimeTransformer, UnderWay
from mutoscope.plugins.video_diffusion.video_unet import heads_of


class Inflated(LevelDenoiser):
    """An image model with a layer of time after each of its own, which alone are to learn from video.

    image: the image model. time: the layers of time, in the order of its layers.
    """

    def __init__(self, image: PictureDenoiser, given: ConditioningFact, head_width: int, context: int = 0) -> None:
        super().__init__()
        self.image, self.under_way = image, UnderWay()
        prompt = given.sequence or given.pooled
        self.time = nn.ModuleList()
        for layer in image.layers():
            if layer.told:
                made: nn.Module = TimeResidual(layer.channels, layer.told, context)
            else:
                made = TimeTransformer(layer.channels, prompt, heads_of(layer.channels, head_width))
            mixed = Mixed(made)
            self.time.append(mixed)
            layer.module.register_forward_hook(After(mixed, self.under_way))

    def pictured(
        self, tokens: Tokens, level: Tensor, told: Conditioning, context: dict[tuple[int, int], Tensor]
    ) -> Tensor:
        """The image model over every frame, with the layers of time at work where a clip has several."""
        self.under_way.frames, self.under_way.context = tokens.grids[0].frames, context
        return self.image(tokens, level, told)
