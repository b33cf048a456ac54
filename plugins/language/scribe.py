"""The writer `scribe`: captions clips by one writer, and makes prompts longer by another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch
from mutoscope.core.writer import LearnedWriter, Writer


@final
class Scribe(LearnedWriter):
    """Both sides of Betker et al. 2023: better captions to learn from, longer prompts to sample by.

    Clips go to the captioner, prompts to the expander; whichever of the two learns is taught.
    """

    name = "scribe"
    paper = "Betker et al. 2023, Improving image generation with better captions"
    tiny: ClassVar[dict[str, Any]] = {
        "captioner": Nested("captioner", {"width": 32, "depth": 1, "heads": 2, "length": 16}),
        "expander": Nested("expander", {"width": 32, "depth": 1, "heads": 2, "length": 24, "tries": 2}),
    }

    def __init__(
        self,
        *,
        captioner: Writer = Nested("captioner"),  # type: ignore[assignment]
        expander: Writer = Nested("expander"),  # type: ignore[assignment]
    ) -> None:
        super().__init__()
        self.captioner, self.expander = captioner, expander

    def losses(self, batch: Batch, draw: Draw) -> Mapping[str, Tensor]:
        return {name: loss for writer in self.learners() for name, loss in writer.losses(batch, draw).items()}

    def learners(self) -> list[LearnedWriter]:
        return [writer for writer in (self.captioner, self.expander) if isinstance(writer, LearnedWriter)]

    def write(self, given: Sequence[str] | Tensor, draw: Draw) -> list[str]:
        return (self.captioner if isinstance(given, Tensor) else self.expander).write(given, draw)

    def begin(self, batches: Iterable[Batch]) -> None:
        """As those of its writers that have it."""
        seen = list(batches)
        for writer in self.learners():
            if hasattr(writer, "begin"):
                writer.begin(seen)  # type: ignore[operator]
