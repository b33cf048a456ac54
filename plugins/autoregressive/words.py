"""The `words` conditioner: prompts as ids of whole words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, final

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.facts import Captioned, ClipFact, ConditioningFact
from mutoscope.core.randomness import Draw, key
from mutoscope.core.settings import Natural, Share
from mutoscope.core.values import Batch, Conditioning

END = 0
"""The id after the last word; also that of padding, which the mask leaves out."""


@final
class Words(Conditioner):
    """Prompts as ids for models that have their own table, or their own encoder, of text.

    A word in lower case is numbered by a hash (Weinberger et al. 2009, arXiv:0902.2206), so that there is no vocabulary
    to store and any size will do; two words may share a number. It stands where papers have byte-pair ids.

    vocabulary: ids, that of the end included. length: words of a prompt with its end; a longer one loses its last
    words. width: of learned vectors, one per id, given as a sequence; 0 gives the ids alone. dropout: share of training
    clips that are told nothing, so that guidance is possible; 0 rules guidance out.
    """

    name = "words"
    paper = "Weinberger et al. 2009, arXiv:0902.2206"
    tiny = {"vocabulary": 64, "length": 8, "width": 8}  # noqa: RUF012

    def __init__(
        self,
        clip: Annotated[ClipFact, Captioned],
        *,
        vocabulary: Annotated[int, Ge(2)] = 2048,
        length: Annotated[int, Ge(2)] = 16,
        width: Natural = 0,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.vocabulary, self.length, self.width, self.dropout = vocabulary, length, width, dropout
        self.table = nn.Embedding(vocabulary, width) if width else None
        # A tensor of the part's own says where it is.
        self.register_buffer("here", torch.zeros(()), persistent=False)
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.1)

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        told = self._told(batch.prompt if batch.prompt is not None else ("",) * len(batch))
        if self.dropout == 0:
            return told
        null = self._told(("",) * len(batch))
        return Conditioning(sequence=told.sequence, mask=told.mask, prompt_ids=told.prompt_ids, null=null)

    def forward(self, ids: Tensor) -> Tensor | None:
        """K L ids to K L D."""
        return None if self.table is None else self.table(ids)

    def _told(self, prompts: Sequence[str]) -> Conditioning:
        rows = [self.ids_of(prompt) for prompt in prompts]
        device = self.here.device
        ids = torch.tensor([row + [END] * (self.length - len(row)) for row in rows], device=device)
        mask = torch.tensor([[j < len(row) for j in range(self.length)] for row in rows], device=device)
        return Conditioning(sequence=self(ids), mask=mask, prompt_ids=ids)

    def ids_of(self, prompt: str) -> list[int]:
        """The ids of a prompt's words and its end."""
        words = re.findall(r"\w+", prompt.lower())[: self.length - 1]
        return [1 + key("word", word) % (self.vocabulary - 1) for word in words] + [END]

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(sequence=self.width, length=self.length, vocabulary=self.vocabulary),)
