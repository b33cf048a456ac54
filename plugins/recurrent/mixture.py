"""The `mixture` objective: the density of the next latent frame."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.denoiser import FrameDenoiser
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, NonNegative
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.recurrent.frames import frames_of
from mutoscope.plugins.recurrent.likelihoods import Mixture


@final
class MixtureObjective(Objective):
    """Every latent value of the next frame has a mixture of Gaussians of its own, given the true frames before it.

    The mixture density network of Ha & Schmidhuber 2018, app. A.2, arXiv:1803.10122. The loss is the mean negative log
    density of a value.

    components: of each mixture. ends: clips are whole episodes, and the network also says when they end, at their last
    frame. ending: weight of that, by cross-entropy; the last frame counts ten times (the paper's Doom).
    """

    name = "mixture"
    paper = "Ha & Schmidhuber 2018, arXiv:1803.10122"
    accepts = FrameDenoiser

    def __init__(self, *, components: Count = 5, ends: bool = False, ending: NonNegative = 1.0) -> None:
        super().__init__()
        self.process: Mixture = Mixture(components, ends)  # type: ignore[assignment]
        self.ending = ending

    def loss(self, learner: FrameDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        assert example.tokens is not None
        canvas, told = example.tokens.with_values(None), example.conditioning
        frames = frames_of(example.tokens.filled(), canvas)
        state, frame = learner.begin(canvas, told), None
        density: list[Tensor] = []
        last: list[Tensor] = []
        for t in range(frames.shape[1]):
            raw, state = learner(frame, state, t, told)
            frame = frames[:, t]
            if t >= learner.reads:
                density.append(self.process.log_density(raw, frame).mean((1, 2)))
            if self.process.ends:
                last.append(self.process.ending(raw))
        nll = -torch.stack(density).mean()
        if not last:
            return Losses(nll, {"nll": nll.detach()})
        logits = torch.stack(last, dim=1)
        target = F.pad(torch.zeros_like(logits[:, :-1]), (0, 1), value=1.0)
        ending = F.binary_cross_entropy_with_logits(logits, target, pos_weight=logits.new_full((), 10.0))
        return Losses(nll + self.ending * ending, {"nll": nll.detach(), "ending": ending.detach()})
