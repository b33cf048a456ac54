"""The `action_code` conditioner: actions as they are."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import Acted, ClipFact, ConditioningFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning


@final
class ActionCode(Conditioner):
    """A fixed code of each frame's action, without weights: what simulators of environments are given.

        Gives per-frame vectors; entry t is the action that leads to frame t. A batch without actions has them drawn, all
        alike, for as many frames as a training clip has. Where the autoencoder joins frames their codes stand side by side,
    zeros where there are none.

        code: `one_hot`, or `scalar`, the action's number brought to [-1, 1].
    """

    name = "action_code"

    def __init__(
        self, clip: Annotated[ClipFact, Acted], latent: LatentFact, *, code: Literal["one_hot", "scalar"] = "one_hot"
    ) -> None:
        super().__init__()
        self.actions, self.frames, self.code = clip.actions, clip.frames, code
        self.stride, self.causal = latent.stride[0], latent.causal

    def forward(self, actions: Tensor) -> Tensor:
        """B T integers over video frames to B T' width over latent frames."""
        if self.code == "scalar":
            codes = (2.0 * actions.float() / max(self.actions - 1, 1) - 1.0)[..., None]
        else:
            codes = (actions[..., None] == torch.arange(self.actions, device=actions.device)).float()
        before = self.stride - 1 if self.causal else 0
        padded = F.pad(codes, (0, 0, before, -(codes.shape[1] + before) % self.stride))
        return rearrange(padded, "b (t s) d -> b t (s d)", s=self.stride)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        """Raises InputError, outside training, on an action that there is not."""
        actions = batch.actions
        if actions is None:
            actions = (draw.uniform("actions", self.frames) * self.actions).long().clamp(max=self.actions - 1)
        elif not self.training and (strange := actions[(actions < 0) | (actions >= self.actions)]).numel():
            raise InputError(
                field="actions", problem="is no action", got=strange[0].item(), allowed=f"0 to {self.actions - 1}"
            )
        return Conditioning(per_frame=self(actions.to(draw.device)))

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(per_frame=self.stride * (1 if self.code == "scalar" else self.actions)),)
