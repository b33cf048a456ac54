"""The `masked_frames` conditioner: some frames as they are, and which ones."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, MinLen
from einops import rearrange
from torch import Tensor

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, Continuous, LatentFact, OneSize, Regular, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.values import Batch, Conditioning


@final
class MaskedFrames(Conditioner):
    """Clean latent frames at some places and zeros elsewhere, m z, and beside them the mask m.

    Prediction: Blattmann et al. 2023, sec. 3.2, arXiv:2304.08818, with 0, 1 or 2 first frames; Gupta et al. 2023,
    sec. 3.4, arXiv:2312.06662, with 1 or 2. Interpolation: Blattmann et al. 2023, sec. 3.3, with every k-th frame, where
    one network serves several k and a further channel says which. In training the frames are drawn of each clip's own
    latents. In sampling a frame is known where all of its tokens are; without known tokens none is.

    frames: numbers of first frames to draw from; or with `places: every` the distances k to draw from. dropout: share
    of training clips that are told of none, so that guidance by the context is possible.
    """

    name = "masked_frames"
    paper = "Blattmann et al. 2023, arXiv:2304.08818"

    def __init__(
        self,
        latents: Annotated[LatentFact, Continuous, OneSize],
        tokens: Annotated[TokenFact, Regular],
        *,
        frames: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)] = (0, 1, 2),
        places: Literal["first", "every"] = "first",
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        if places == "every" and min(frames) < 1:
            raise ValueError("frames: the distance between known frames is at least 1")
        if places == "first" and max(frames) > latents.grid.frames:
            raise ValueError(f"frames: a clip has {latents.grid.frames} latent frames; got {max(frames)} known")
        self.channels, self.grid, self.patch = latents.channels, latents.grid, tokens.patch
        self.frames, self.places, self.dropout = frames, places, dropout
        self.beside = ("first",) if places == "first" else ("first", "frames")

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(cells=self.channels + 1 + (self.places == "every")),)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        z, chosen = self._latents(batch, draw), None
        if self.training and batch.latents is not None:
            chosen = self._drawn(draw)
            mask = self._mask(chosen, z.shape[2])
        else:
            mask = self._known(batch, z)
        cells = self(z, mask, chosen)
        nothing = torch.zeros_like(cells)
        return Conditioning(cells=cells, null=Conditioning(cells=nothing) if self.dropout > 0 else None)

    def forward(self, z: Tensor, mask: Tensor, chosen: Tensor | None) -> Tensor:
        """B C T H W and B T to B C' T H W. chosen: B, the distances drawn; those that the mask shows where None."""
        m = mask[:, None, :, None, None].to(z.dtype)
        parts = [m * z, m.expand(-1, 1, -1, *z.shape[3:])]
        if self.places == "every":
            which = torch.tensor(self.frames, device=z.device)
            shown = mask.shape[1] / mask.sum(dim=1).clamp(min=1) if chosen is None else chosen
            far = (which[None] <= shown[:, None]).sum(dim=1).to(z.dtype) / len(self.frames)
            parts.append((m.amax(dim=2, keepdim=True) * far.view(-1, 1, 1, 1, 1)).expand_as(parts[1]))
        return torch.cat(parts, dim=1)

    def _latents(self, batch: Batch, draw: Draw) -> Tensor:
        """The frames to choose from: a training clip's own, or the known tokens put together."""
        if batch.latents is not None:
            assert isinstance(batch.latents.values, Tensor)
            return batch.latents.values
        if batch.known is None:
            return torch.zeros(len(draw.clips), self.channels, *self.grid, device=draw.device)
        return self._as_cells(batch.known.values)

    def _as_cells(self, values: Tensor) -> Tensor:
        """Values of tokens, B N (c i j k), over the latent cells."""
        (t, h, w), (i, j, k) = self.grid, self.patch
        if values.shape[1] * i * j * k != self.grid.cells:
            raise InputError(field="known", problem=f"must be of the training clips' {t} x {h} x {w} latent cells")
        pattern = "b (t h w) (c i j k) -> b c (t i) (h j) (w k)"
        return rearrange(values, pattern, t=t // i, h=h // j, w=w // k, i=i, j=j, k=k)

    def _known(self, batch: Batch, z: Tensor) -> Tensor:
        if batch.known is None:
            return torch.zeros(len(z), z.shape[2], dtype=torch.bool, device=z.device)
        cubes = self.patch[0] * self.patch[1] * self.patch[2]
        return self._as_cells(batch.known.where[..., None].expand(-1, -1, cubes)).all(dim=(1, 3, 4))

    def _drawn(self, draw: Draw) -> Tensor:
        """One of `frames` for each clip, B integers."""
        place = (draw.uniform("frames").view(-1) * len(self.frames)).long()
        return torch.tensor(self.frames, device=place.device)[place]

    def _mask(self, chosen: Tensor, frames: int) -> Tensor:
        """B T, true for known frames."""
        number = torch.arange(frames, device=chosen.device)[None]
        return number < chosen[:, None] if self.places == "first" else number % chosen[:, None] == 0
