"""The autoencoder `clip_codes`: an image embedding as ids, for an autoregressive prior."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, final

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.component import Nested
from mutoscope.core.facts import ClipFact, LatentFact, OneSize
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count
from mutoscope.core.tower import JointTower
from mutoscope.core.values import Batch, Grid, Latents, Reconstruction
from mutoscope.plugins.unclip.clip_image import embedded, frozen, spread

WIDEST = 3.5
"""Deviations from the mean within which a component is cut into buckets."""


@final
class ClipCodes(Autoencoder):
    """Principal components of an image embedding, each cut into buckets. Ramesh et al. 2022, sec. 2.2.

    The components come in order of the variance that they explain; an id is the bucket of one of them. Measured once,
    when a phase that teaches it begins, on the first training clips; the objective `principal` then refines the basis.
    Not decoded into video: see `clip_image`.

    tower: frozen. components: kept; the paper keeps 319 of 1024. buckets: of equal width over 3.5 deviations to either
    side.
    """

    name = "clip_codes"
    paper = "Ramesh et al. 2022, arXiv:2204.06125"
    tiny: ClassVar[dict[str, Any]] = {"tower": Nested("clip", {"shipped": False}), "components": 8, "buckets": 16}

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        clip: Annotated[ClipFact, OneSize],
        *,
        tower: JointTower = Nested("clip"),  # type: ignore[assignment]
        components: Count = 319,
        buckets: Annotated[int, Ge(2)] = 1024,
    ) -> None:
        super().__init__()
        if components > tower.width:
            raise ValueError(f"components: an embedding of {tower.width} numbers has not as many as {components}")
        self.clip, self.components, self.buckets = clip, components, buckets
        self.tower = frozen(tower)
        self.basis = nn.Parameter(torch.eye(tower.width)[:components].clone())
        self.register_buffer("mean", torch.zeros(tower.width))
        self.register_buffer("deviation", torch.full((components,), tower.width**-0.5))

    @torch.no_grad()
    def encode(self, video: Tensor) -> Latents:
        """B K 1 1 ids."""
        parts = (embedded(self.tower, video) - self.mean) @ self.basis.T / self.deviation
        ids = ((parts / WIDEST + 1) / 2 * self.buckets).floor().long().clamp(0, self.buckets - 1)
        return Latents(ids[:, :, None, None], ids=True)

    def decode(self, latents: Latents) -> Tensor:
        """The embedding in the middle of the buckets, of unit length, at every pixel: B D T H W."""
        assert isinstance(latents.values, Tensor)
        parts = ((latents.values.flatten(1).float() + 0.5) / self.buckets * 2 - 1) * WIDEST * self.deviation
        vectors = F.normalize(parts @ self.basis + self.mean, dim=-1)
        return spread(vectors[:, :, None, None, None], self.clip)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(self.components, 1, 1)

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return (self.clip.frames, *self.clip.size)

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        """The embedding rebuilt from its components, not cut; `residual` is what they leave out, squared."""
        vectors = embedded(self.tower, video) - self.mean
        left = (vectors - vectors @ self.basis.T @ self.basis).square().sum(dim=1).mean()
        return Reconstruction(self.decode(self.encode(video)), {"residual": left})

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Mean, principal components and their deviations, of a few training clips."""
        rows = torch.cat([embedded(self.tower, batch.video) for batch in batches if isinstance(batch.video, Tensor)])
        self.mean.copy_(rows.mean(dim=0))
        _, spread_of, basis = torch.linalg.svd((rows - self.mean).double(), full_matrices=False)
        kept = min(self.components, len(basis))
        self.basis[:kept].copy_(basis[:kept])
        self.deviation[:kept].copy_((spread_of[:kept] / max(1, len(rows) - 1) ** 0.5).clamp(min=1e-6))

    def facts(self) -> Iterable[LatentFact]:
        grid = Grid(self.components, 1, 1)
        stride = (max(1, self.clip.frames // self.components), *self.clip.size)
        return (LatentFact(1, stride, grid, codebook=self.buckets, decodes=False),)
