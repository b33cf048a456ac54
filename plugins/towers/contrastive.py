"""The `contrastive` objective: clips and their captions find each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.tower import JointTower
from mutoscope.core.values import Example, Losses


@final
class Contrastive(Objective):
    """Each clip's caption among all captions of the batch, and each caption's clip. Radford et al. 2021, fig. 3.

    Captions of a small world repeat within a batch: clips of one caption are right for each other too, each by an equal
    share (Yang et al. 2022, arXiv:2204.03610, eq. 2 and 3). Where no caption repeats it is the paper's loss. Logs the
    share of clips whose own caption is liked best.
    """

    name = "contrastive"
    paper = "Radford et al. 2021, arXiv:2103.00020"
    learns = "tower"
    accepts = JointTower

    def loss(self, learner: JointTower, example: Example, draw: Draw, turn: str) -> Losses:
        batch = example.batch
        if batch.video is None or batch.prompt is None:
            raise InputError(field="data", problem="contrastive learns from clips with captions")
        seen = seen_of(learner, batch.video)
        read = learner.read(batch.prompt).pooled
        assert read is not None
        logits = learner.sharpness() * seen @ read.T
        right = alike(batch.prompt, logits)
        error = (agreement(logits, right) + agreement(logits.T, right.T)) / 2
        found = right.gather(1, logits.argmax(dim=1, keepdim=True)) > 0
        return Losses(error, {"right": found.float().mean()})


def seen_of(tower: JointTower, video: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The unit vectors of clips, K width; those of one size are seen together."""
    if isinstance(video, Tensor):
        pooled = tower.features(video).pooled
        assert pooled is not None
        return pooled
    sizes: dict[torch.Size, list[int]] = {}
    for i, clip in enumerate(video):
        sizes.setdefault(clip.shape, []).append(i)
    rows = [seen_of(tower, torch.stack([video[i] for i in places])) for places in sizes.values()]
    order = torch.tensor([i for places in sizes.values() for i in places], device=rows[0].device)
    return torch.cat(rows)[order.argsort()]


def alike(prompts: Sequence[str], logits: Tensor) -> Tensor:
    """K K, true where two captions are the same."""
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    own = torch.tensor([numbers[prompt] for prompt in prompts], device=logits.device)
    return own[:, None] == own[None]


def agreement(logits: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy of each row with even shares over what is right for it."""
    shares = right.to(logits.dtype) / right.sum(dim=1, keepdim=True)
    return -(shares * F.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()
