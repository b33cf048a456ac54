"""The `blended` conditioner: synthetic captions and given ones, by chance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, final

from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.facts import ConditioningFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.values import Batch, Conditioning


@final
class Blended(Conditioner):
    """In training another conditioner reads what the recipe's writer says of the clip in place of the given caption,
    at a rate. Betker et al. 2023, sec. 3: drawn for each clip, whole, every time that it is seen.

    A clip's text is written once, before the phase. In sampling the prompt is read as it is.

    rate: share of synthetic captions; the paper's best is 0.95. text: reads them.
    """

    name = "blended"
    paper = "Betker et al. 2023, Improving image generation with better captions"
    reads_written = True
    tiny: ClassVar[dict[str, Any]] = {"text": Nested("text", {"width": 64, "depth": 1, "heads": 2, "length": 12})}

    def __init__(
        self,
        *,
        rate: Share = 0.95,
        text: Conditioner = Nested("text"),  # type: ignore[assignment]
    ) -> None:
        super().__init__()
        self.rate, self.text = rate, text
        self.dropout, self.sees = text.dropout, text.sees

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        return self.text.embed(replace(batch, prompt=self.prompts(batch, draw)), draw)

    def forward(self, *given: Tensor) -> Any:
        """As the conditioner that reads."""
        return self.text(*given)

    def prompts(self, batch: Batch, draw: Draw) -> tuple[str, ...] | None:
        """The caption of each clip that is read."""
        if batch.written is None:
            return batch.prompt
        given = batch.prompt if batch.prompt is not None else ("",) * len(batch)
        synthetic = (draw.uniform("blend").view(-1) < self.rate).tolist()
        return tuple(w if s else g for w, g, s in zip(batch.written, given, synthetic, strict=True))

    def facts(self) -> Iterable[ConditioningFact]:
        return self.text.facts()
