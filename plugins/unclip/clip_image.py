"""The autoencoder `clip_image`: a clip as its vector in the space of a contrastive model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.component import Nested
from mutoscope.core.facts import ClipFact, LatentFact, OneSize
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Positive
from mutoscope.core.tower import JointTower
from mutoscope.core.values import Grid, Latents, Reconstruction


@final
class ClipImage(Autoencoder):
    """The image embedding of a contrastive model as the one latent of a clip. Ramesh et al. 2022, sec. 2.

    The latent is the embedding, of unit length, times `scale`. It is not turned back into video: `decode` spreads the
    embedding over the pixels of a clip, as many channels as it has numbers, from where a further stage reads it
    (`image_embedding`).

    tower: frozen. scale: of the embedding; that of the paper's is 17.2, and the root of its width gives numbers of
    about unit variance.
    """

    name = "clip_image"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    tiny: ClassVar[dict[str, Any]] = {"tower": Nested("clip", {"shipped": False})}

    def __init__(
        self,
        clip: Annotated[ClipFact, OneSize],
        *,
        tower: JointTower = Nested("clip"),  # type: ignore[assignment]
        scale: Positive = 17.2,
    ) -> None:
        super().__init__()
        self.clip, self.scale = clip, scale
        self.tower = frozen(tower)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Latents:
        return Latents(embedded(self.tower, video)[:, :, None, None, None] * self.scale)

    def decode(self, latents: Latents) -> Tensor:
        """B D 1 1 1 to B D T H W, of unit length."""
        assert isinstance(latents.values, Tensor)
        return spread(F.normalize(latents.values.float(), dim=1), self.clip)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(1, 1, 1)

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return (self.clip.frames, *self.clip.size)

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        return Reconstruction(self.decode(self.encode(video)))

    def facts(self) -> Iterable[LatentFact]:
        stride = (self.clip.frames, *self.clip.size)
        return (LatentFact(self.tower.width, stride, Grid(1, 1, 1), decodes=False),)


def frozen(tower: JointTower) -> JointTower:
    """The tower, which no phase will teach."""
    tower.frozen = True  # type: ignore[assignment]
    return tower.eval().requires_grad_(False)


def embedded(tower: JointTower, video: Tensor) -> Tensor:
    """The unit vectors of clips, B D."""
    pooled = tower.features(video).pooled
    assert pooled is not None
    return pooled.float()


def spread(vectors: Tensor, clip: ClipFact) -> Tensor:
    """B D 1 1 1 at every pixel of a clip, without memory: B D T H W."""
    return vectors.expand(-1, -1, clip.frames, *clip.size)
