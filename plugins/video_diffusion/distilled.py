"""The `distilled` sampler: two steps down, one back up."""

from __future__ import annotations

from typing import Annotated, final

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Additive, TokenFact
from mutoscope.core.guidance import Guided
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Steps
from mutoscope.core.values import Conditioning, Prediction, Tokens
from mutoscope.plugins.video_diffusion.stepping import noised_back, pinned, times_of, without_noise


@final
class Distilled(Sampler):
    """The stochastic sampler of distilled models. Ho et al. 2022, sec. 2.7, arXiv:2210.02303.

    Every step is a deterministic one of twice the length, then one of noise back by half of that, after Karras et al.
    2022; the last one goes to the data. It has no guidance of its own: a distilled model has it in itself.

    steps: network calls per clip.
    """

    name = "distilled"
    paper = "Ho et al. 2022, arXiv:2210.02303"
    accepts = LevelDenoiser

    def __init__(self, tokens: TokenFact, process: Annotated[LevelProcess, Additive], *, steps: Steps = 8) -> None:
        super().__init__()
        self.width, self.process, self.steps = tokens.width, process, steps
        times_of(process, steps)

    def calls(self, canvas: Tokens) -> int:
        return self.steps

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        times, coefficients = times_of(self.process, self.steps)
        guided, known = Guided(self.process, denoiser, conditioning), conditioning.known
        (a, s), said = coefficients[0], None
        x = pinned(draw.like(canvas, width=self.width) * (a * a + s * s) ** 0.5, known)
        for i in range(self.steps):
            said = guided.predict(canvas.with_values(x), times[i], said)
            x = self.stepped(said, i, coefficients, canvas, draw)
            x = pinned(x, known)
        return canvas.with_values(x)

    def stepped(self, said: Prediction, i: int, coefficients: list[tuple[float, float]], canvas: Tokens, draw: Draw):
        """Values at the next time, B N D."""
        far = coefficients[min(i + 2, self.steps)]
        x = without_noise(said.as_clean(), said.as_noise(), far)
        if i + 1 == self.steps:
            return x
        return noised_back(x, far, coefficients[i + 1], draw.at(i).like(canvas, width=self.width))
