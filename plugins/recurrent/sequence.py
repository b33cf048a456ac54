"""The `sequence` objective: the frames of a clip, one after another."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mutoscope.core.denoiser import FrameDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.objective import Objective
from mutoscope.core.process import FrameProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Natural, NonNegative, Share
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.recurrent.frames import frames_of
from mutoscope.plugins.recurrent.likelihoods import Bernoulli, Gaussian


@final
class Sequence(Objective):
    """Negative log-likelihood of a clip's frames after those it opens with, summed, mean over clips.

    The reconstruction and future prediction of Srivastava et al. 2015, sec. 2, arXiv:1502.04681, and the training
    schemes of Chiappa et al. 2017, sec. 2, arXiv:1704.02254. Frames that open the clip are shown and not judged. Of the
    others the first are predicted from true frames, the last, in a share `predicted`, from the network's own means,
    through which gradients flow (prediction-dependent), or from none (prediction-independent).

    likelihood: `bernoulli`, or `gaussian`, half the squared error. warmup: frames that open a clip; at least as many as
    the network reads. through: of these, how many gradients reach back into; null for all. predicted: share of the
    judged frames; ramp: steps over which it grows from 0. blind: these are predicted without looking at any frame.
    truncate: frames after which gradients through the state are cut, 0 for never. recall: weight of frames that the
    network remakes from what it has read.
    """

    name = "sequence"
    paper = "Srivastava et al. 2015, arXiv:1502.04681"
    accepts = FrameDenoiser

    def __init__(
        self,
        *,
        likelihood: Literal["bernoulli", "gaussian"] = "gaussian",
        warmup: Natural = 0,
        through: Natural | None = None,
        predicted: Share = 0.0,
        ramp: Natural = 0,
        blind: bool = False,
        truncate: Natural = 0,
        recall: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.process: FrameProcess = Bernoulli() if likelihood == "bernoulli" else Gaussian()  # type: ignore[assignment]
        self.warmup, self.through, self.truncate, self.recall = warmup, through, truncate, recall
        self.predicted, self.ramp, self.blind = predicted, ramp, blind

    def alone(self, step: int, judged: int) -> int:
        """How many of the judged frames, the last ones, are predicted without true frames at a step."""
        share = self.predicted * min(1.0, step / self.ramp) if self.ramp else self.predicted
        return round(share * judged)

    def loss(self, learner: FrameDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        assert example.tokens is not None
        canvas, told, process = example.tokens.with_values(None), example.conditioning, self.process
        frames = frames_of(example.tokens.filled(), canvas)
        count, opening = frames.shape[1], max(self.warmup, learner.reads)
        if opening >= count:
            raise InputError(
                field="objective.warmup", problem=f"leaves none of the {count} frames to predict", got=opening
            )
        own = count - self.alone(draw.step, count - opening)
        silent = 0 if self.through is None else max(0, opening - self.through)
        state: Any = learner.begin(canvas, told)
        frame: Tensor | None = None
        recalled: list[Tensor] = []
        future: list[Tensor] = []
        for t in range(count):
            if t and (t == silent or (self.truncate and t > opening and (t - opening) % self.truncate == 0)):
                state = tree_map(_cut, state)
            with torch.set_grad_enabled(torch.is_grad_enabled() and t >= silent):
                raw, state = learner(frame, state, t, told)
            if t == opening and self.recall:
                recalled = [process.nll(r, frames[:, i]) for i, r in learner.recalled(state, told).items()]
            if t >= opening:
                future.append(process.nll(raw, frames[:, t]))
            shown = frames[:, t]
            if t >= max(own - 1, opening):
                shown = None if self.blind else process.sample(raw, draw.at(t), 0.0)
            frame = shown
        total = torch.stack(future).sum(0).mean()
        parts = {"future": (total / len(future)).detach()}
        if recalled:
            remade = torch.stack(recalled).sum(0).mean()
            parts["recall"] = (remade / len(recalled)).detach()
            total = total + self.recall * remade
        return Losses(total, parts)


def _cut(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x
