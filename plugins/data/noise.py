"""The dataset `noise`: clips of a declared shape that show nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import torch

from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import DataError, InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Natural, Size
from mutoscope.core.values import Batch


@final
class Noise(Dataset):
    """Stands for data that is not here: clips of its shape, number of classes and actions, drawn evenly.

    For the recipes of papers, which say what their data was and are counted without it, and for measuring speed. There
    is nothing to learn in it.

    channels, frames, size (rows, columns): of a clip. sizes: a list of [frames, rows, columns] to draw from instead.
    classes, actions: how many, 0 for none. captions: clips have a text, the same for all. clips: in every split.
    """

    name = "noise"
    tiny = {"frames": 5, "clips": 16, "classes": 4, "actions": 3}  # noqa: RUF012

    def __init__(
        self,
        *,
        channels: Count = 3,
        frames: Count = 1,
        size: Size = (32, 32),
        sizes: tuple[tuple[Count, Count, Count], ...] = (),
        classes: Natural = 0,
        actions: Natural = 0,
        captions: bool = True,
        clips: Count = 1024,
    ) -> None:
        self.shapes = tuple(tuple(shape) for shape in sizes) or ((frames, *size),)
        largest = max(self.shapes, key=lambda shape: shape[0] * shape[1] * shape[2])
        mixed = len(self.shapes) > 1
        self.clip = ClipFact(channels, largest[0], largest[1:], mixed, classes, actions, captions)
        self.clips = clips

    def facts(self) -> Iterable[ClipFact]:
        return (self.clip,)

    def length(self, split: str) -> int:
        if split not in self.splits():
            raise InputError(field="split", problem="noise has no such split", got=split, allowed=self.splits())
        return self.clips

    def sizes(self, split: str, indices: Sequence[int]) -> list[tuple[int, int, int]] | None:
        if not self.clip.mixed:
            return None
        pick = self._draw(split, indices).uniform("size").mul(len(self.shapes)).long().tolist()
        return [self.shapes[i] for i in pick]

    def batch(self, split: str, indices: Sequence[int], epoch: int = 0) -> Batch:
        length = self.length(split)
        if not len(indices) or min(indices) < 0 or max(indices) >= length:
            raise DataError(f"noise: the {split} split has clips 0 to {length - 1}; asked for {list(indices)[:3]}")
        draw, clip = self._draw(split, indices), self.clip
        if clip.mixed:
            shapes = self.sizes(split, indices) or []
            video = tuple(
                draw.of(draw.clips[i : i + 1]).uniform("video", clip.channels, *shape)[0] * 2 - 1
                for i, shape in enumerate(shapes)
            )
        else:
            video = draw.uniform("video", clip.channels, clip.frames, *clip.size) * 2 - 1
        label = (draw.uniform("label") * clip.classes).long() if clip.classes else None
        actions = None
        if clip.actions and not clip.mixed:
            actions = (draw.uniform("actions", clip.frames) * clip.actions).long()
        prompt = ("noise",) * len(indices) if clip.captions else None
        return Batch(video, prompt, label, actions, clips=tuple(int(i) for i in indices))

    def fingerprint(self) -> str:
        return f"noise:{self.shapes}:{self.clip.classes}:{self.clip.actions}:{self.clips}"

    def _draw(self, split: str, indices: Sequence[int]) -> Draw:
        return Draw(0, f"noise.{split}", 0, tuple(int(i) for i in indices), torch.device("cpu"))
