"""The `rollout` sampler: frame after frame."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import FrameDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.process import FrameProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import NonNegative
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.recurrent.frames import known_frames


@final
class Rollout(Sampler):
    """Shows the network the known frames that open a clip, then lets it go on from its own.

    Two ways to go on are Chiappa et al. 2017, sec. 2: prediction-dependent, from the frame just predicted, and
    prediction-independent, without looking. Actions and other conditioning by frame go with either.

    temperature: of the draw of each frame, 0 for the mean or mode (Ha & Schmidhuber 2018, sec. 4.3: above 1 makes the
    dream harder). blind: go on without looking at the frames predicted.
    """

    name = "rollout"
    paper = "Ha & Schmidhuber 2018, arXiv:1803.10122"
    accepts = FrameDenoiser
    goes_on_from = "earlier"

    def __init__(self, process: FrameProcess, *, temperature: NonNegative = 1.0, blind: bool = False) -> None:
        super().__init__()
        self.process, self.temperature, self.blind = process, temperature, blind

    def calls(self, canvas: Tokens) -> int:
        return canvas.grids[0].frames

    def sample(self, denoiser: FrameDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        """Raises InputError where fewer frames are known than the network reads before it predicts."""
        known, opening = known_frames(conditioning.known, canvas)
        if opening < denoiser.reads:
            raise InputError(
                field="known",
                problem=f"{denoiser.name} goes on from {denoiser.reads} frames; show them, or add a conditioner that "
                "gives them, such as opening",
                got=opening,
            )
        state: Any = denoiser.begin(canvas, conditioning)
        frame: Tensor | None = None
        made: list[Tensor] = []
        for t in range(canvas.grids[0].frames):
            raw, state = denoiser(frame, state, t, conditioning)
            if known is not None and t < opening:
                made.append(known[:, t])
            else:
                made.append(self.process.sample(raw, draw.at(t), self.temperature))
            frame = None if self.blind and t >= opening else made[-1]
        return canvas.with_values(torch.cat(made, dim=1))
