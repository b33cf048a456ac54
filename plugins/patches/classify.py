"""The `classify` objective."""

from __future__ import annotations

from typing import Annotated, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact, Labelled
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.tower import Tower
from mutoscope.core.values import Example, Losses


@final
class Classify(Objective):
    """Cross-entropy of a tower's logits with the clips' labels; logs the share that is right.

    smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567,
    sec. 7).
    """

    name = "classify"
    learns = "tower"
    accepts = Tower

    def __init__(self, clip: Annotated[ClipFact, Labelled], *, smoothing: Share = 0.0) -> None:
        super().__init__()
        self.classes, self.smoothing = clip.classes, smoothing

    def loss(self, learner: Tower, example: Example, draw: Draw, turn: str) -> Losses:
        """Raises InputError on a tower without a head for the classes."""
        batch = example.batch
        assert batch.label is not None
        logits = self.logits(learner, batch.video)
        error = F.cross_entropy(logits.float(), batch.label, label_smoothing=self.smoothing)
        right = (logits.detach().argmax(-1) == batch.label).float().mean()
        return Losses(error, {"accuracy": right})

    def logits(self, learner: Tower, video: Any) -> Tensor:
        """K classes. Clips of several sizes go together where the tower packs them, else one by one."""
        if isinstance(video, tuple) and not getattr(learner, "packs", False):
            said = [learner.features(clip[None]).logits for clip in video]
            logits = None if said[0] is None else torch.cat([one for one in said if one is not None])
        else:
            logits = learner.features(video).logits
        if logits is None or logits.shape[-1] < self.classes:
            raise InputError(
                field="tower", problem=f"{learner.name} has no head for the {self.classes} classes of the data"
            )
        return logits
