"""The writer `expander`: short prompts become descriptive captions, and keep what they state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Heads, NonNegative, Share, Width
from mutoscope.core.values import Batch
from mutoscope.core.writer import LearnedWriter
from mutoscope.plugins.language.attributes import WORLD, Groups, keeps
from mutoscope.plugins.language.captioner import all_texts, until
from mutoscope.plugins.language.transformer import LanguageModel, padded


@final
class Expander(LearnedWriter):
    """A small language model that writes a descriptive caption after a prompt. Betker et al. 2023, app. C, where a
    large one is asked to; the prompt expansion of the Sora report.

    Learns from the clips of which people wrote a short and a descriptive caption: the short one, words left out at
    random, is the prompt.

    What the prompt states is kept by check and repair, not by the model: of `tries` texts that it writes, the first
    that keeps every stated word and says nothing against any (`attributes.keeps`) is taken; if there is none, texts
    that begin with the prompt as it stands; if none of those either, the prompt itself. So a prompt keeps what it
    states however little the model has learned.

    width, depth, heads: of the model. length: pieces of prompt and text together. vocabulary: ids. leave_out: most that
    is left out of a prompt in training. temperature: of writing; the first try takes the likeliest piece. groups: words
    that exclude each other.
    """

    name = "expander"
    paper = "Betker et al. 2023, Improving image generation with better captions"
    tiny: ClassVar[dict[str, Any]] = {"width": 32, "depth": 1, "heads": 2, "length": 24, "tries": 2}

    def __init__(
        self,
        *,
        width: Width = 96,
        depth: Depth = 2,
        heads: Heads = 4,
        length: Count = 80,
        vocabulary: Count = 640,
        leave_out: Share = 0.8,
        tries: Count = 4,
        temperature: NonNegative = 0.7,
        groups: Groups = WORLD,
    ) -> None:
        super().__init__()
        self.leave_out, self.tries, self.temperature, self.groups = leave_out, tries, temperature, groups
        self.language = LanguageModel(vocabulary, width, depth, heads, length)

    def forward(self, ids: Tensor) -> Tensor:
        """B L ids to the logits of what follows each, B L V."""
        return self.language(ids)[0]

    def losses(self, batch: Batch, draw: Draw) -> Mapping[str, Tensor]:
        texts, device = batch.texts or {}, self.language.table.weight.device
        pairs = zip(texts.get("short", ()), texts.get("descriptive", ()), strict=True)
        rows, told = [], []
        keep = draw.uniform("leave_out", 64).cpu().tolist()
        for (short, long), chances in zip(pairs, keep, strict=False):
            if short and long:
                prompt = self.begun(thinned(short, chances[1:], self.leave_out * chances[0]))
                rows.append([*prompt, *self.language.words.ids(long), self.language.words.end][: self.language.length])
                told.append(len(prompt))
        if not rows:
            return {"nothing": self.language.places.sum() * 0.0}
        nll = self.language.nll(padded(rows, device), torch.tensor(told, device=device))
        return {"expansion": nll * len(rows) / max(1, len(batch))}

    def begun(self, prompt: str) -> list[int]:
        """The ids of a prompt between start and the end that its text comes after."""
        words = self.language.words
        return [words.start, *words.ids(prompt)[: self.language.length // 2 - 2], words.end]

    @torch.no_grad()
    def write(self, given: Sequence[str] | Tensor, draw: Draw) -> list[str]:
        """A longer text for each prompt. Raises InputError on clips."""
        if isinstance(given, Tensor):
            raise InputError(field="writer", problem="expander makes prompts longer; it does not caption clips")
        prompts = list(given)
        return expanded(prompts, self._candidates(prompts, draw), self.groups)

    def _candidates(self, prompts: list[str], draw: Draw) -> Iterable[Callable[[list[int]], list[str]]]:
        """Ways to write for some of the prompts, by their places, best first."""
        words = self.language.words

        def trial(i: int, verbatim: bool) -> Callable[[list[int]], list[str]]:
            def write(places: list[int]) -> list[str]:
                own = [words.ids(prompts[p]) if verbatim else [] for p in places]
                begun = [[*self.begun(prompts[p]), *ids] for p, ids in zip(places, own, strict=True)]
                one = draw.at(2 * i + verbatim).of([draw.clips[p] for p in places])
                heat = self.temperature if i else 0.0
                written = self.language.written(begun, None, one, heat, self.language.length)
                return [words.text([*ids, *until(row, words.end)]) for ids, row in zip(own, written, strict=True)]

            return write

        yield from (trial(i, False) for i in range(self.tries))
        yield from (trial(i, True) for i in range(self.tries))

    def begin(self, batches: Iterable[Batch]) -> None:
        """Takes in the pieces that captions use."""
        self.language.words.learn(all_texts(batches))


def expanded(prompts: list[str], ways: Iterable[Callable[[list[int]], list[str]]], groups: Groups) -> list[str]:
    """The first text for each prompt that keeps what it states; the prompt itself where none does.

    ways: each writes texts for the prompts at some places.
    """
    texts, open_ = list(prompts), list(range(len(prompts)))
    for way in ways:
        if not open_:
            break
        for place, text in zip(open_, way(open_), strict=True):
            if text and keeps(prompts[place], text, groups):
                texts[place] = text
        open_ = [place for place in open_ if texts[place] == prompts[place]]
    return texts


def thinned(text: str, chances: Sequence[float], share: float) -> str:
    """A text of which each word is left out with a probability. chances: numbers in [0, 1), one per word."""
    kept = [word for word, chance in zip(text.split(), chances, strict=False) if chance >= share]
    return " ".join(kept)
