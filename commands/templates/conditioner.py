"""The conditioner `my_part`: a prompt as the bag of its words. A start to change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.facts import Captioned, ClipFact, ConditioningFact
from mutoscope.core.randomness import Draw, key
from mutoscope.core.settings import Count, Share, Width
from mutoscope.core.values import Batch, Conditioning


@final
class MyPart(Conditioner):
    """The mean of a learned vector for each word; words share the rows of a table by their hash.

    width: of the vectors. rows: of the table. dropout: share of training clips that are told nothing, so that guidance
    is possible.
    """

    name = "my_part"
    tiny: ClassVar[dict[str, Any]] = {"width": 16, "rows": 64}

    def __init__(
        self,
        clip: Annotated[ClipFact, Captioned],
        *,
        width: Width = 128,
        rows: Count = 1024,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.width, self.rows, self.dropout = width, rows, dropout
        # Row 0 is the empty prompt's.
        self.table = nn.Embedding(rows + 1, width)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        prompts = batch.prompt if batch.prompt is not None else ("",) * len(batch)
        null = Conditioning(pooled=self(("",) * len(prompts))) if self.dropout > 0 else None
        return Conditioning(pooled=self(prompts), null=null)

    def forward(self, prompts: Iterable[str]) -> Tensor:
        """One vector per prompt, K width."""
        return torch.stack([self.table(self._ids(prompt)).mean(dim=0) for prompt in prompts])

    def facts(self) -> Iterable[ConditioningFact]:
        yield ConditioningFact(pooled=self.width)

    def _ids(self, prompt: str) -> Tensor:
        words = [1 + key("my_part", word) % self.rows for word in prompt.lower().split()]
        return torch.tensor(words or [0], device=self.table.weight.device)


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
