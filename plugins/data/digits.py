"""The dataset `digits`: handwritten digits that move and bounce."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le

from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import DataError, InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.randomness import key
from mutoscope.core.settings import Count, NonNegative, Size
from mutoscope.core.values import Batch

VERSION = "digits-1"
KINDS = 10
SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
"""Which of the handwritten pictures a split draws from: no picture is in two splits."""


@final
class Digits(Dataset):
    """Moving digits: each goes straight at a constant speed and bounces off the edges; the brighter of two shows.

    Moving MNIST (Srivastava et al. 2015, sec. 4.2, arXiv:1502.04681) from the 1,797 handwritten digits of 8 x 8 pixels
    that scikit-learn brings along, smoothly enlarged. A clip is a function of the split and its number alone. Labels
    are the first digit's.

    frames, size (rows, columns): of a clip. channels: 1, or 3 alike. digits: in each clip. side: of a digit, as a share
    of the clip's shorter side; the paper's is 28 of 64. speed: way per frame, as a share of the room to move. clips:
    length of the training split; held: of the others.
    """

    name = "digits"
    tiny = {"frames": 5, "size": (16, 16), "clips": 32, "held": 8}  # noqa: RUF012

    def __init__(
        self,
        *,
        frames: Count = 20,
        size: Size = (64, 64),
        channels: Literal[1, 3] = 1,
        digits: Annotated[int, Ge(1), Le(5)] = 2,
        side: Annotated[float, Gt(0), Le(1)] = 0.4375,
        speed: NonNegative = 0.1,
        clips: Count = 10000,
        held: Count = 1000,
    ) -> None:
        self.frames, self.size, self.channels, self.digits, self.speed = frames, tuple(size), channels, digits, speed
        self.side = max(1, round(side * min(size)))
        self.lengths = {"train": clips}
        self.held = held

    def facts(self) -> Iterable[ClipFact]:
        yield ClipFact(self.channels, self.frames, (self.size[0], self.size[1]), classes=KINDS)

    def length(self, split: str) -> int:
        if split not in SHARES:
            raise InputError(field="split", problem="digits has no such split", got=split, allowed=SHARES)
        return self.lengths.get(split, self.held)

    def batch(self, split: str, indices: Sequence[int], epoch: int = 0) -> Batch:
        """Clips by number; `epoch` changes nothing. Raises DataError without scikit-learn."""
        length = self.length(split)
        if not len(indices) or min(indices) < 0 or max(indices) >= length:
            raise DataError(f"digits: the {split} split has clips 0 to {length - 1}; asked for {list(indices)[:3]}")
        clips, kinds = zip(*(self._clip(split, int(i)) for i in indices), strict=True)
        video = torch.from_numpy(np.stack(clips)).mul_(2.0).sub_(1.0)
        return Batch(
            video=video[:, None].expand(-1, self.channels, -1, -1, -1).contiguous(),
            prompt=tuple(told(each) for each in kinds),
            label=torch.tensor([each[0] for each in kinds]),
            clips=tuple(int(i) for i in indices),
        )

    def fingerprint(self) -> str:
        return f"{VERSION}:{key(self.size, self.frames, self.channels, self.digits, self.side, self.speed, self.lengths, self.held):016x}"

    def _clip(self, split: str, index: int) -> tuple[np.ndarray, list[int]]:
        """T H W in [0, 1] and what digits it shows."""
        rng = np.random.Generator(np.random.Philox(key=key(VERSION, split, index)))
        pictures, kinds = self._pictures
        low, high = (round(share * len(pictures)) for share in SHARES[split])
        canvas, shown = np.zeros((self.frames, *self.size), dtype=np.float32), []
        for number in rng.integers(low, high, size=self.digits):
            shown.append(int(kinds[number]))
            for t, (top, left) in enumerate(self._path(rng)):
                place = canvas[t, top : top + self.side, left : left + self.side]
                np.maximum(place, pictures[number], out=place)
        return canvas, shown

    def _path(self, rng: np.random.Generator) -> np.ndarray:
        """Top left corners, T x 2: a straight way folded back into the room at its edges."""
        room = np.array(self.size, dtype=np.float64) - self.side
        angle = rng.uniform(0, 2 * np.pi)
        way = rng.uniform(0, 1, size=2) + self.speed * np.arange(self.frames)[:, None] * [np.sin(angle), np.cos(angle)]
        folded = 1.0 - np.abs(np.mod(way, 2.0) - 1.0)
        return np.floor(folded * room + 0.5).astype(int)

    @cached_property
    def _pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """Every handwritten digit enlarged, in [0, 1], and which it is."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as missing:
            raise DataError('digits needs scikit-learn: pip install "mutoscope[digits]"') from missing
        loaded = load_digits()
        small = torch.from_numpy(loaded.images).float()[:, None] / 16.0  # type: ignore[attr-defined]
        large = F.interpolate(small, (self.side, self.side), mode="bicubic", align_corners=False).clamp(0, 1)
        return large[:, 0].numpy(), loaded.target  # type: ignore[attr-defined]


def told(kinds: Sequence[int]) -> str:
    """What a clip shows, in words."""
    return f"the digit {kinds[0]} moves" if len(kinds) == 1 else f"the digits {' and '.join(map(str, kinds))} move"
