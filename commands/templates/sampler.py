"""The sampler `my_part`: from level to level by the clean data that the network sees. A start to change."""

from __future__ import annotations

from typing import final

import torch

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import TokenFact
from mutoscope.core.guidance import Guided, calls_at
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import NonNegative, Steps
from mutoscope.core.values import Conditioning, Tokens


@final
class MyPart(Sampler):
    """Goes down the levels: the clean data and the noise that the network sees, mixed again for the next level.

    steps: network calls per clip, doubled by guidance. guidance: scale of classifier-free guidance; 1 is none.
    """

    name = "my_part"
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
            signal, noise = (x.tolist() for x in self.process.coefficients(torch.tensor(times)))
        known = conditioning.known
        # The spread of the noisy tokens at the first level, for data of unit variance.
        x = draw.like(canvas, width=self.width) * (signal[0] ** 2 + noise[0] ** 2) ** 0.5
        for i in range(self.steps):
            if known is not None:
                x = torch.where(known.where[..., None], known.values, x)
            said = guided.predict(canvas.with_values(x), times[i])
            x = signal[i + 1] * said.as_clean().float() + noise[i + 1] * said.as_noise().float()
        if known is not None:
            x = torch.where(known.where[..., None], known.values, x)
        return canvas.with_values(x)

    def calls(self, canvas: Tokens) -> int:
        return sum(calls_at(time, self.guidance, (0.0, 1.0)) for time in self.times()[:-1])

    def times(self) -> list[float]:
        """Levels from 1 down to 0: steps + 1 numbers."""
        with torch.device("cpu"):
            return self.process.levels(self.steps).tolist()


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
