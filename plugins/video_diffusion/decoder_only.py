"""The `decoder_only` objective: another objective, from which a video's decoder alone learns."""

from __future__ import annotations

from typing import final

from mutoscope.core.component import Nested
from mutoscope.core.objective import Objective, WrappingObjective
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.video_diffusion.video_decoder import VideoDecoder


@final
class DecoderOnly(WrappingObjective):
    """The encoder stays to the last bit what it is, so that latents do; the decoder learns from whole clips.

    Blattmann et al. 2023, sec. 3.1.1, arXiv:2304.08818: with a discriminator of patches in space and time and no other,
    as one of images makes the video worse.

    objective: what is descended.
    """

    name = "decoder_only"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"
    learns = "autoencoder"
    accepts = VideoDecoder

    def __init__(
        self,
        *,
        objective: Objective = Nested("perceptual_adversarial", {"discriminator": {"type": "patch3d"}, "start": 0}),  # type: ignore[assignment]
    ) -> None:
        super().__init__(objective)

    def restrict(self, learner: VideoDecoder) -> None:
        for parameter in learner.encoder_parameters():
            parameter.requires_grad_(False)
        self.objective.restrict(learner)

    def loss(self, learner: VideoDecoder, example: Example, draw: Draw, turn: str) -> Losses:
        return self.objective.loss(learner, example, draw, turn)
