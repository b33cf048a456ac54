"""The `principal` objective: the components of an embedding that leave least of it out."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.unclip.clip_codes import ClipCodes


@final
class Principal(Objective):
    """What a basis of `clip_codes` leaves out of the embeddings, squared, and how far it is from orthonormal.

    Its minimum spans the principal components (Pearson 1901), from which `begin` starts; steps refine them on more
    clips than those. No steps at all will do.
    """

    name = "principal"
    learns = "autoencoder"
    accepts = ClipCodes

    def loss(self, learner: ClipCodes, example: Example, draw: Draw, turn: str) -> Losses:
        if not isinstance(example.batch.video, Tensor):
            raise InputError(field="data", problem="principal learns from clips of one size")
        left = learner(example.batch.video, draw).terms["residual"]
        square = learner.basis @ learner.basis.T
        skew = (square - torch.eye(len(square), device=square.device)).square().mean()
        return Losses(left + skew, {"residual": left.detach()})
