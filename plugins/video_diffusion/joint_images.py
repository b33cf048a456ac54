"""The `joint_images` objective: another objective, learned from single frames beside the clips."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, final

from einops import rearrange
from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import LatentFact, Need, Regular, TokenFact
from mutoscope.core.objective import Objective, WrappingObjective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.values import Conditioning, Example, Losses, Tokens

OneFrame = Need("tokens of one latent frame", lambda fact: fact.patch[0] == 1)


@final
class JointImages(WrappingObjective):
    """Images beside videos: one frame of every clip is an image with the clip's prompt, a video of one frame.

    Ho et al. 2022, "Video diffusion models", sec. 3, arXiv:2204.03458; Ho et al. 2022, "Imagen Video", sec. 2.6,
    arXiv:2210.02303; Gupta et al. 2023, sec. 3.3. There, images are packed as the frames of a clip and attention over
    time is masked so that they stay apart; here each is a clip of its own, which denoisers take by leaving time alone.
    Frames are drawn from all of a clip; where the autoencoder codes only the first one alone, that one is the image.

    objective: what is descended. share: of images in the loss; with 1 there are no videos, and an image model is
    trained.
    """

    name = "joint_images"
    paper = "Ho et al. 2022, arXiv:2204.03458"
    accepts = LevelDenoiser

    def __init__(
        self,
        latents: LatentFact,
        tokens: Annotated[TokenFact, Regular, OneFrame],
        *,
        objective: Objective = Nested("flow"),  # type: ignore[assignment]
        share: Share = 0.2,
    ) -> None:
        super().__init__(objective)
        self.share, self.first = share, latents.causal

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        if self.share == 0:
            return self.objective.loss(learner, example, draw, turn)
        images = self.objective.loss(learner, self.images(example, draw), draw.at(1), turn)
        parts = {f"image.{name}": value for name, value in images.parts.items()}
        if self.share == 1:
            return Losses(images.total, parts)
        videos = self.objective.loss(learner, example, draw, turn)
        return Losses((1 - self.share) * videos.total + self.share * images.total, {**videos.parts, **parts})

    def images(self, example: Example, draw: Draw) -> Example:
        """One frame of each clip, as clips of one frame, of which nothing is known."""
        tokens = example.tokens
        assert tokens is not None
        frames = tokens.grids[0].frames
        number = (draw.uniform("frame").view(-1) * (1 if self.first else frames)).long()
        cells = rearrange(tokens.filled(), "b (t n) d -> b t n d", t=frames)
        canvas = Tokens.canvas(tokens.grids[0]._replace(frames=1), len(tokens), tokens.device)
        told = replace(_of_frames(example.conditioning, number), known=None)
        return Example(canvas.with_values(_chosen(cells, number)[:, 0]), told, example.batch)


def _of_frames(told: Conditioning, number: Tensor) -> Conditioning:
    """The conditioning of one frame of each clip."""
    if told.per_frame is not None:
        told = replace(told, per_frame=_chosen(told.per_frame, number))
    if told.cells is not None:
        told = replace(told, cells=_chosen(told.cells.transpose(1, 2), number).transpose(1, 2))
    return told if told.null is None else replace(told, null=_of_frames(told.null, number))


def _chosen(x: Tensor, number: Tensor) -> Tensor:
    """B T ... to B 1 ...: the frame of each clip by its number."""
    place = number.view(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return x.gather(1, place)
