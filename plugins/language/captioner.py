"""The writer `captioner`: a language model that is told what a tower sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.component import Nested
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Heads, NonNegative, Width
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch
from mutoscope.core.writer import LearnedWriter
from mutoscope.plugins.language.transformer import LanguageModel, padded

GIVEN = "given"
STYLES = (GIVEN, "short", "descriptive")
"""The captions that come with the data, and those that people wrote of some clips: of the main thing, of everything."""
TOGETHER = 64
"""Clips that are looked at together when they are captioned."""


@final
class Captioner(LearnedWriter):
    """p(t_j | t_<j, z): a caption from the embedding of a clip, piece by piece. Betker et al. 2023, sec. 2.1.

    Learns to write as the captions that come with the data do, and short and descriptive captions from the clips of
    which people wrote some (`Batch.texts`); the style is told. The paper trains the styles one after the other.
    With `contrast` clips and their captions also find each other, as in Yu et al. 2022, "CoCa", sec. 3.2: the text side
    is the same network without the clip. A clip's embedding is the tower's pooled vector, as so many rows as `rows`.

    tower: sees; learned with the rest. width, depth, heads: of the language model. length: pieces of a caption.
    vocabulary: ids, of the pieces that the captions use most. style: what is written. given: weight of learning the
    data's captions. contrast: weight of the contrastive loss. temperature: of writing; 0 takes the likeliest piece.
    """

    name = "captioner"
    paper = "Betker et al. 2023, Improving image generation with better captions"
    tiny: ClassVar[dict[str, Any]] = {"width": 32, "depth": 1, "heads": 2, "length": 16}

    def __init__(
        self,
        clip: ClipFact,
        *,
        tower: Tower = Nested("mutonet", {"shipped": False}),  # type: ignore[assignment]
        width: Width = 96,
        depth: Depth = 2,
        heads: Heads = 4,
        rows: Count = 4,
        length: Count = 40,
        vocabulary: Count = 640,
        style: Literal["short", "descriptive"] = "descriptive",
        given: NonNegative = 0.2,
        contrast: NonNegative = 0.0,
        temperature: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        self.rows, self.most, self.style = rows, length, style
        self.given, self.contrast, self.temperature = given, contrast, temperature
        self.tower = tower
        self.language = LanguageModel(vocabulary, width, depth, heads, rows + 1 + length)
        blank = torch.zeros(1, clip.channels, clip.frames, *clip.size)
        with torch.no_grad():
            seen = self.seen(blank).shape[-1]
        self.look = nn.Linear(seen, rows * width)
        self.styles = nn.Parameter(0.1 * torch.randn(len(STYLES), width))
        self.sides = nn.ModuleList([nn.Linear(seen, width), nn.Linear(width, width)]) if contrast else None
        self.sharpness = nn.Parameter(torch.tensor(2.66)) if contrast else None

    def seen(self, video: Tensor) -> Tensor:
        """What the tower sees of clips, B D."""
        features = self.tower.features(video)
        if features.pooled is not None:
            return features.pooled
        if features.sequence is None:
            raise InputError(field="tower", problem=f"{self.tower.name} gives no features of a clip")
        return features.sequence.mean(dim=1)

    def forward(self, seen: Tensor, styles: Tensor) -> Tensor:
        """The rows before a caption, B P D, of what is seen, B D, and the places of the styles, B."""
        look = rearrange(self.look(seen), "b (p d) -> b p d", p=self.rows)
        return torch.cat([look, self.styles[styles][:, None]], dim=1)

    def losses(self, batch: Batch, draw: Draw) -> Mapping[str, Tensor]:
        """Raises InputError on clips of several sizes, and on data without captions."""
        video = batch.video
        if not isinstance(video, Tensor) or batch.prompt is None:
            raise InputError(field="data", problem="captioner learns from clips of one size with captions")
        told = self.told(batch)
        looked = sorted({i for rows in told.values() for i, _ in rows})
        if not looked:
            return {"nothing": self.styles.sum() * 0.0}
        seen = self.seen(video[looked])
        place = {clip: i for i, clip in enumerate(looked)}
        found: dict[str, Tensor] = {}
        for style, rows in told.items():
            at = torch.tensor([place[i] for i, _ in rows], device=video.device)
            prefix = self(seen[at], torch.full_like(at, STYLES.index(style)))
            ids = padded([self.ids(text) for _, text in rows], video.device)
            # In proportion to the batch: a batch with few captions of a style teaches it less.
            weight = (self.given if style == GIVEN else 1.0) * len(rows) / max(1, len(batch))
            found[style] = weight * self.language.nll(ids, torch.ones_like(at), prefix)
            if self.contrast and style == GIVEN:
                found["contrast"] = self.contrast * self.agreement(seen[at], ids)
        return found

    def told(self, batch: Batch) -> dict[str, list[tuple[int, str]]]:
        """(clip, caption) of each style: what people wrote, and the data's own where they wrote nothing."""
        texts = batch.texts or {}
        found = {style: [(i, text) for i, text in enumerate(texts.get(style, ())) if text] for style in STYLES[1:]}
        written = {i for rows in found.values() for i, _ in rows}
        prompts = batch.prompt or ()
        found[GIVEN] = (
            [(i, p) for i, p in enumerate(prompts) if i not in written] if self.given or self.contrast else []
        )
        return {style: rows for style, rows in found.items() if rows}

    def agreement(self, seen: Tensor, ids: Tensor) -> Tensor:
        """The contrastive loss of clips and their captions; captions that are the same are right for each other."""
        assert self.sides is not None and self.sharpness is not None
        last = (ids == self.language.words.end).long().argmax(dim=1)
        states = self.language(ids)[1][torch.arange(len(ids), device=ids.device), last]
        one, other = F.normalize(self.sides[0](seen), dim=-1), F.normalize(self.sides[1](states), dim=-1)
        logits = self.sharpness.exp().clamp(max=100.0) * one @ other.T
        right = (ids[:, None] == ids[None]).all(dim=-1)
        shares = right / right.sum(dim=1, keepdim=True)
        ways = (logits, logits.T)
        return sum(-(shares * way.float().log_softmax(dim=1)).sum(dim=1).mean() for way in ways) / 2  # type: ignore[return-value]

    def ids(self, text: str) -> list[int]:
        words = self.language.words
        return [words.start, *words.ids(text)[: self.most - 2], words.end]

    @torch.no_grad()
    def write(self, given: Sequence[str] | Tensor, draw: Draw) -> list[str]:
        """Captions of clips B C T H W. Raises InputError on prompts."""
        if not isinstance(given, Tensor):
            raise InputError(field="writer", problem="captioner writes of clips; it does not expand prompts")
        was = self.training
        self.eval()
        texts: list[str] = []
        for start in range(0, len(given), TOGETHER):
            part = given[start : start + TOGETHER]
            style = torch.full((len(part),), STYLES.index(self.style), device=given.device)
            prefix = self(self.seen(part.float()), style)
            begun = [[self.language.words.start]] * len(part)
            one = draw.of(draw.clips[start : start + len(part)])
            written = self.language.written(begun, prefix, one, self.temperature, self.most)
            texts += [self.language.words.text(until(row, self.language.words.end)) for row in written]
        self.train(was)
        return texts

    def begin(self, batches: Iterable[Batch]) -> None:
        """Takes in the pieces that captions use."""
        self.language.words.learn(all_texts(batches))


def all_texts(batches: Iterable[Batch]) -> Iterable[str]:
    """Everything that is written of some clips."""
    for batch in batches:
        yield from batch.prompt or ()
        for texts in (batch.texts or {}).values():
            yield from texts


def until(ids: Sequence[int], end: int) -> list[int]:
    """Ids before the end."""
    return list(ids[: ids.index(end)] if end in ids else ids)
