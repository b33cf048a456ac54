"""The `at_once` generator: a denoiser of levels that removes all noise in one call."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from torch import Tensor

from mutoscope.core.component import Facts, Nested
from mutoscope.core.denoiser import LevelDenoiser, OneStepDenoiser
from mutoscope.core.facts import Continuous, Regular, TokenFact
from mutoscope.core.process import LevelProcess, OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Tokens


@final
class Whole(LevelProcess):
    """The straight path at its noisy end: what is predicted there is the way to the data, or the data."""

    kind = "flow"

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - level, level


@final
class AtOnce(OneStepDenoiser):
    """A network made to remove noise level by level, called once at the highest: a one-step DiT or U-Net.

    predict: the network gives the `velocity`, noise - data, so that an untrained network passes its noise on, or the
    `clean` data.
    """

    name = "at_once"
    uses_known = True
    tiny = {"denoiser": Nested("dit", {"width": 32, "depth": 1, "heads": 2})}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        process: OneStepProcess,
        *,
        denoiser: LevelDenoiser = Nested("dit"),  # type: ignore[assignment]
        predict: Literal["velocity", "clean"] = "velocity",
    ) -> None:
        super().__init__()
        self.denoiser, self.predict, self.width = denoiser, predict, tokens.width

    @classmethod
    def lend(cls, facts: Facts) -> tuple[LevelProcess, ...]:
        return (Whole(),)

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        return {"noise": draw.normal("noise", canvas.grids[0].cells, self.width)}

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        x = noise["noise"]
        seen = x
        if conditioning.known is not None:
            seen = torch.where(conditioning.known.where[..., None], conditioning.known.values, x)
        level = torch.full((len(canvas),), 1000.0, device=x.device)
        raw = self.denoiser(canvas.with_values(seen), level, conditioning)
        return x - raw if self.predict == "velocity" else raw
