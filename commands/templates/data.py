"""The dataset `my_part`: stripes that drift. A start to change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import DataError, InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.randomness import key
from mutoscope.core.settings import Count, Size
from mutoscope.core.values import Batch

DIRECTIONS = {"left": (0, 1), "right": (0, -1), "up": (1, 0), "down": (-1, 0)}
"""Which way stripes drift: the sign of the phase along rows and columns."""


@final
class MyPart(Dataset):
    """Stripes of some width that drift one of four ways, captioned; made on the fly, the same for the same number.

    frames, size (rows, columns): of a clip. clips: in the training split. held: in every other split.
    """

    name = "my_part"
    tiny: ClassVar[dict[str, Any]] = {"frames": 3, "size": (8, 8), "clips": 16, "held": 4}

    def __init__(self, *, frames: Count = 9, size: Size = (16, 16), clips: Count = 4000, held: Count = 256) -> None:
        self.frames, self.size, self.clips, self.held = frames, (size[0], size[1]), clips, held

    def length(self, split: str) -> int:
        if split not in self.splits():
            raise InputError(field="split", problem="my_part has no such split", got=split, allowed=self.splits())
        return self.clips if split == "train" else self.held

    def batch(self, split: str, indices: Sequence[int], epoch: int = 0) -> Batch:
        if not len(indices) or min(indices) < 0 or max(indices) >= self.length(split):
            raise DataError(f"my_part: the {split} split has clips 0 to {self.length(split) - 1}")
        made = [self._clip(split, int(i)) for i in indices]
        return Batch(
            video=torch.stack([video for video, _ in made]),
            prompt=tuple(prompt for _, prompt in made),
            clips=tuple(int(i) for i in indices),
        )

    def facts(self) -> Iterable[ClipFact]:
        yield ClipFact(3, self.frames, self.size)

    def fingerprint(self) -> str:
        return f"my_part:1:{self.frames}:{self.size}:{self.clips}:{self.held}"

    def _clip(self, split: str, index: int) -> tuple[Tensor, str]:
        """C T H W in [-1, 1], and a caption; a function of (split, number) alone."""
        chosen = key("my_part", split, index)
        way, width = list(DIRECTIONS)[chosen % 4], 4 + chosen // 4 % 5
        along = DIRECTIONS[way]
        time = torch.arange(self.frames, dtype=torch.float32)[:, None, None]
        rows = torch.arange(self.size[0], dtype=torch.float32)[None, :, None]
        columns = torch.arange(self.size[1], dtype=torch.float32)[None, None, :]
        phase = along[0] * rows + along[1] * columns + time
        wave = torch.sin(2 * math.pi * phase / width)
        return wave.expand(3, -1, -1, -1).clone(), f"stripes {width} wide drift {way}"


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
