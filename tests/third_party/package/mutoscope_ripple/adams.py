"""The sampler `adams`."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import TokenFact
from mutoscope.core.guidance import Guided, calls_at
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import NonNegative, Steps
from mutoscope.core.values import Conditioning, Tokens


@final
class Adams(Sampler):
    """Two-step Adams-Bashforth on the probability-flow equation: second order with one network call a step.

    Hairer, Norsett & Wanner 1993, sec. III.5, with unequal steps. In y = x / (a + s) and tau = s / (a + s) the equation
    of any level process is dy/dtau = eps - x0.

    steps: network calls per clip, doubled by guidance. guidance: scale of classifier-free guidance; 1 is none.
    """

    name = "adams"
    paper = "Hairer, Norsett & Wanner 1993"
    accepts = LevelDenoiser

    def __init__(
        self, tokens: TokenFact, process: LevelProcess, *, steps: Steps = 20, guidance: NonNegative = 1.0
    ) -> None:
        super().__init__()
        self.width, self.process, self.steps, self.guidance = tokens.width, process, steps, guidance

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        guided = Guided(self.process, denoiser, conditioning, self.guidance)
        times = self.times()
        with torch.device("cpu"):
            pairs = torch.stack(self.process.coefficients(torch.tensor(times, dtype=torch.float64)))
            scale, tau = pairs.sum(0).tolist(), (pairs[1] / pairs.sum(0)).tolist()
            spread = float(pairs[:, 0].square().sum().sqrt())
        y = draw.like(canvas, width=self.width) * (spread / scale[0])
        before: Tensor | None = None
        for i in range(self.steps):
            slope = guided.predict(canvas.with_values(y * scale[i]), times[i]).as_flow().float()
            step = tau[i + 1] - tau[i]
            if before is None:
                y = y + step * slope
            else:
                ratio = 0.5 * step / (tau[i] - tau[i - 1])
                y = y + step * ((1 + ratio) * slope - ratio * before)
            before = slope
        return canvas.with_values(y * scale[-1])

    def calls(self, canvas: Tokens) -> int:
        return sum(calls_at(time, self.guidance, (0.0, 1.0)) for time in self.times()[:-1])

    def times(self) -> list[float]:
        """Levels from 1 down to 0: steps + 1 numbers."""
        with torch.device("cpu"):
            return self.process.levels(self.steps).tolist()
