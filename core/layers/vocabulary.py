"""Vocabularies of parts that read text, or write it: byte pairs, all of them or the few that the data uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mutoscope.core.layers.bpe import VOCABULARY, tokenizer

PADDING = 0
"""Id of what stands after the end."""
SYMBOLS = 512
"""Byte pairs that are single bytes, or a byte that ends a word: any text can be spelled with them."""
LEAST = SYMBOLS + 4
"""Ids of the smallest vocabulary: the symbols, one piece, padding, start and end."""


class Vocabulary(nn.Module):
    """Ids of text: padding 0, single bytes, the pieces that the data uses most, start, end.

    The pieces are those of CLIP's byte pairs (Radford et al. 2021, sec. 2.4). A piece that is not among the few is
    spelled by its bytes, so that every text can be read and written. With `size` of all byte pairs, ids are CLIP's own.

    size: ids in all; those of start and end are the last two, as CLIP has it.
    """

    pieces: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if not LEAST <= size <= VOCABULARY:
            raise ValueError(f"vocabulary: must be {LEAST} to {VOCABULARY} ids; got {size}")
        self.size, self.start, self.end = size, size - 2, size - 1
        self.whole = size == VOCABULARY
        # The byte pair of each id; -1 for none.
        first = [-1] * (0 if self.whole else size)
        self.register_buffer("pieces", torch.tensor(first, dtype=torch.long))
        self._known: dict[int, int] | None = None
        self.register_load_state_dict_post_hook(lambda *_: self.forget())

    def learn(self, texts: Iterable[str]) -> None:
        """Takes in the pieces that some texts use most; nothing where there are all already."""
        if self.whole:
            return
        counts = Counter(piece for text in texts for piece in _cut(text) if piece >= SYMBOLS)
        most = sorted(counts, key=lambda piece: (-counts[piece], piece))[: self.size - SYMBOLS - 3]
        held = torch.full((self.size,), -1, dtype=torch.long)
        held[SYMBOLS + 1 : SYMBOLS + 1 + len(most)] = torch.tensor(most, dtype=torch.long)
        self.pieces.copy_(held)
        self.forget()

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""
        if self.whole:
            return _cut(text)
        known = self.known()
        found: list[int] = []
        for piece in _cut(text):
            found += [known[piece]] if piece in known else [1 + symbol for symbol in _spelled(piece)]
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids; padding, start and end say nothing."""
        told = [i for i in ids if i not in (PADDING, self.start, self.end)] if not self.whole else list(ids)
        if self.whole:
            pieces = [i for i in told if i < self.start]
        else:
            places = {own: piece for piece, own in self.known().items()}
            pieces = [i - 1 if i <= SYMBOLS else places.get(i, -1) for i in told]
        return tokenizer().decode([piece for piece in pieces if piece >= 0]).strip()

    def rows(self, texts: Sequence[str], length: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Ids of texts between start and end, cut to `length` and padded to it, and the mask of what is not padding:
        K length each. What is cut loses what stands before its end."""
        rows = []
        for text in texts:
            ids = [self.start, *self.ids(text), self.end]
            rows.append(ids if len(ids) <= length else [*ids[: length - 1], self.end])
        padded = torch.tensor([row + [PADDING] * (length - len(row)) for row in rows], device=device)
        mask = torch.tensor([[j < len(row) for j in range(length)] for row in rows], device=device)
        return padded, mask

    def known(self) -> dict[int, int]:
        """Ids of the pieces beyond single bytes."""
        if self.pieces.is_meta:
            return {}
        if self._known is None:
            self._known = {piece: own for own, piece in enumerate(self.pieces.tolist()) if piece >= 0}
        return self._known

    def forget(self) -> None:
        """The pieces have changed."""
        self._known = None


def _cut(text: str) -> list[int]:
    return tokenizer().encode(text)


def _spelled(piece: int) -> list[int]:
    """A piece as single bytes, the last of which may end a word."""
    bpe = tokenizer()
    text: str = bpe.decoder[piece]
    ends = text.endswith("</w>")
    letters = list(text.removesuffix("</w>"))
    if ends:
        letters[-1] += "</w>"
    return [bpe.encoder[letter] for letter in letters]
