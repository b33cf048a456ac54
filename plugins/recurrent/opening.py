"""The `opening` conditioner: the frames that a clip begins with are known."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count
from mutoscope.core.values import Batch, Conditioning, Known
from mutoscope.plugins.recurrent.frames import check_frames


@final
class Opening(Conditioner):
    """Shows the first frames of a clip, for models that go on from them.

    In training these are the clip's own. A request that shows none gets those of a training clip, drawn from some that
    are kept.

    frames: how many are shown. kept: training clips whose first frames are kept.
    """

    name = "opening"

    def __init__(
        self, tokens: Annotated[TokenFact, Continuous, Regular], *, frames: Count = 1, kept: Count = 64
    ) -> None:
        super().__init__()
        check_frames(self.name, tokens)
        if frames >= tokens.grid.frames:
            raise ValueError(f"frames: a clip has {tokens.grid.frames}, and something must be left to go on with")
        self.grid, self.patch = tokens.grid, tokens.patch
        self.shown = frames * tokens.grid.rows * tokens.grid.columns
        self.register_buffer("memory", torch.zeros(kept, self.shown, tokens.width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def forward(self, values: Tensor) -> Known:
        """First frames B n D as known tokens of a training clip's grid."""
        rest = self.grid.cells - self.shown
        where = torch.arange(self.grid.cells, device=values.device) < self.shown
        return Known(F.pad(values, (0, 0, 0, rest)), where.expand(len(values), -1))

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        if batch.known is not None:
            return Conditioning(known=batch.known)
        if batch.latents is not None and isinstance(batch.latents.values, Tensor):
            _, j, k = self.patch
            cut = rearrange(batch.latents.values, "b c t (h j) (w k) -> b (t h w) (c j k)", j=j, k=k)[:, : self.shown]
            if self.training:
                self._keep(cut, draw)
            return Conditioning(known=self(cut))
        place = (draw.uniform("opening") * self.filled.clamp(min=1)).long()
        return Conditioning(known=self(self.memory[place]))

    @torch.no_grad()
    def _keep(self, openings: Tensor, draw: Draw) -> None:
        """Writes over the oldest: a function of the step alone."""
        kept = len(self.memory)
        place = (torch.arange(len(openings), device=openings.device) + draw.step * len(openings)) % kept
        self.memory[place[-kept:]] = openings.detach().to(self.memory)[-kept:]
        self.filled.copy_((self.filled + len(openings)).clamp(max=kept))

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(known=True, places=("first",)),)
