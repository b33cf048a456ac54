"""Small parts of several roles, which the tests of the registry look at. They compute nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

from torch import Tensor

from mutoscope.core.component import Component, Nested
from mutoscope.core.denoiser import LevelDenoiser, TokenDenoiser
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ConditioningFact, Continuous, FieldFact, Regular, TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.plugin import hookimpl
from mutoscope.core.process import LevelProcess
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Count, Depth, Heads, NonNegative, Positive, Precision, Share, Size, Width
from mutoscope.core.values import Conditioning, Logits, Losses, Tokens


@final
class Wide(LevelDenoiser):
    """A denoiser with settings of every kind.

    width: features of a token. depth: number of blocks. low, high: bounds of the levels
    that it looks at. window (rows, columns): of local attention; null for none.
    """

    name = "wide"
    paper = "Nobody 2024"

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        process: LevelProcess,
        given: ConditioningFact | None = None,
        *,
        width: Width = 64,
        depth: Depth = 4,
        heads: Heads = 4,
        low: Share = 0.0,
        high: Share = 1.0,
        scale: Positive = 1.0,
        window: Size | None = None,
        mixing: Literal["joint", "factorised", "windowed"] = "joint",
        precision: Precision = "float32",
        bias: bool = True,
        widths: tuple[Count, ...] = (8, 16),
        label: str = "",
        shift: float | None = None,
    ) -> None:
        super().__init__()

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        return level


@final
class Ids(TokenDenoiser):
    """A denoiser without a constructor of its own."""

    name = "ids"

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Any | None = None) -> Logits:
        raise AssertionError("never called")


@final
class Patches(Discriminator):
    """Judges patches."""

    name = "patches"

    def __init__(self, field: FieldFact, *, width: Width = 32, slope: NonNegative = 0.2) -> None:
        super().__init__()

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        return grid


@final
class Duel(Objective):
    """An objective with nested parts: one, none or one, and several."""

    name = "duel"

    def __init__(
        self,
        tokens: TokenFact,
        *,
        weight: NonNegative = 1.0,
        judge: Discriminator = Nested("patches", {"width": 16}),
        second: Discriminator | None = None,
        judges: dict[str, Discriminator] = {"a": Nested("patches")},  # noqa: B006
    ) -> None:
        super().__init__()

    def loss(self, learner: Any, example: Any, draw: Any, turn: str) -> Losses:
        raise AssertionError("never called")


@final
class Steps(Sampler):
    """A sampler whose steps a recipe must give."""

    name = "steps_"

    def __init__(self, process: LevelProcess, *, steps: Count, guidance: NonNegative = 1.0) -> None:
        super().__init__()

    def sample(self, denoiser: Any, canvas: Tokens, conditioning: Conditioning, draw: Any) -> Tokens:
        return canvas

    def calls(self, canvas: Tokens) -> int:
        return 1


PARTS: list[type[Component]] = [Wide, Ids, Patches, Duel, Steps]


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return PARTS
