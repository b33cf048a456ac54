"""The `actions` conditioner: one vector per latent frame."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import Acted, ClipFact, ConditioningFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share, Width
from mutoscope.core.values import Batch, Conditioning


@final
class Actions(Conditioner):
    """A vector for each latent frame from the actions of the video frames that it codes.

    Gives per-frame vectors. Under an autoencoder that codes the first frame alone, so do its actions. A batch without
    actions has them drawn, all alike, for as many frames as a training clip has.

    width: of the vectors. dropout: share of training clips that are told no action, so that guidance is possible; 0
    rules guidance out.
    """

    name = "actions"

    def __init__(
        self, clip: Annotated[ClipFact, Acted], latent: LatentFact, *, width: Width = 128, dropout: Share = 0.1
    ) -> None:
        super().__init__()
        self.actions, self.frames, self.width, self.dropout = clip.actions, clip.frames, width, dropout
        self.stride, self.causal = latent.stride[0], latent.causal
        self.table = nn.Embedding(clip.actions + 1, width)
        self.join = nn.Linear(self.stride * width, width)

    def forward(self, actions: Tensor) -> Tensor:
        """B T integers over video frames to B T' D over latent frames; the number of actions stands for none."""
        before = self.stride - 1 if self.causal else 0
        after = -(actions.shape[1] + before) % self.stride
        padded = F.pad(actions, (before, after), value=self.actions)
        return self.join(rearrange(self.table(padded), "b (t s) d -> b t (s d)", s=self.stride))

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError, outside training, on an action that there is not."""
        device = self.table.weight.device
        actions = batch.actions
        if actions is None:
            actions = (draw.uniform("actions", self.frames) * self.actions).long().clamp(max=self.actions - 1)
        elif not self.training and (strange := actions[(actions < 0) | (actions >= self.actions)]).numel():
            raise InputError(
                field="actions", problem="is no action", got=strange[0].item(), allowed=f"0 to {self.actions - 1}"
            )
        actions = actions.to(device)
        null = None
        if self.dropout > 0:
            null = Conditioning(per_frame=self(torch.full_like(actions, self.actions)))
        return Conditioning(per_frame=self(actions), null=null)

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(per_frame=self.width),)
