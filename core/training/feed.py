"""The feed: from a step's number to its clips, with what frozen parts make of them made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.dataset import Dataset, Order
from mutoscope.core.errors import DataError
from mutoscope.core.model import Model
from mutoscope.core.training.views import Seen
from mutoscope.core.values import Batch, Latents

BLOCK = 64
"""Clips that are encoded together when a cache is filled; fixed, so that a resumed run fills it with the same bits."""


@dataclass(frozen=True)
class Share:
    """Which clips of every step are this process's: micro-batches of equal size, dealt to the processes in turn."""

    batch: int
    accumulate: int
    rank: int = 0
    processes: int = 1

    @property
    def micro(self) -> int:
        """Clips per micro-batch and process."""
        return self.batch // (self.accumulate * self.processes)

    def places(self) -> list[range]:
        """Places in the global batch of each micro-batch of this process."""
        starts = [(m * self.processes + self.rank) * self.micro for m in range(self.accumulate)]
        return [range(start, start + self.micro) for start in starts]


class Feed:
    """Gives the micro-batches of any step; a function of the step, so that there is no cursor to lose.

    latents: fill `Batch.latents` with the frozen autoencoder's encoding instead of `Batch.video`. Where the data is
    fixed and fits `cache` bytes, the encoding is made once for every clip the phase will see.
    """

    def __init__(
        self,
        dataset: Dataset | Seen,
        model: Model,
        share: Share,
        seed: int,
        steps: int,
        latents: bool,
        cache: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.dataset, self.model, self.share, self.steps, self.latents = dataset, model, share, steps, latents
        length = dataset.length("train")
        if length < 1:
            raise DataError("the training split has no clips: zero batches")
        self.order = Order(seed, length)
        self.device = model.device
        self.cached = self._fill(cache, stop) if latents and dataset.fixed else None

    def from_step(self, step: int) -> Iterator[list[tuple[range, Batch]]]:
        """The micro-batches (places, batch) of steps `step`, `step + 1`, ...; the next one is prepared in a thread."""
        if self.cached is not None:
            for i in range(step, self.steps):
                yield [(places, self.cached.batch(self._numbers(i, places))) for places in self.share.places()]
            return
        with ThreadPoolExecutor(max_workers=1) as worker:
            ahead: list[Future] = [worker.submit(self._load, i) for i in range(step, min(step + 2, self.steps))]
            for i in range(step, self.steps):
                loaded = ahead.pop(0).result()
                if i + 2 < self.steps:
                    ahead.append(worker.submit(self._load, i + 2))
                yield [(places, self._encoded(batch.to(self.device))) for places, batch in loaded]

    def _numbers(self, step: int, places: range) -> list[int]:
        """The clip numbers at these places of a step."""
        return [number for _, number in self.order.at(step * self.share.batch + places.start, len(places))]

    def _load(self, step: int) -> list[tuple[range, Batch]]:
        loaded = []
        for places in self.share.places():
            drawn = self.order.at(step * self.share.batch + places.start, len(places))
            loaded.append((places, self.dataset.batch("train", [n for _, n in drawn], epoch=drawn[0][0])))
        return loaded

    @torch.no_grad()
    def _encoded(self, batch: Batch) -> Batch:
        if not self.latents or batch.video is None:
            return batch
        if isinstance(batch.video, tuple):
            return replace(batch, latents=self._encoded_sizes(batch.video), video=None)
        return replace(batch, latents=self.model.autoencoder.encode(batch.video), video=None)

    def _encoded_sizes(self, video: Sequence[Tensor]) -> Latents:
        """Latents of clips of several sizes, those of one size encoded together."""
        sizes: dict[torch.Size, list[int]] = {}
        for i, clip in enumerate(video):
            sizes.setdefault(clip.shape, []).append(i)
        coded: dict[int, Tensor] = {}
        ids = False
        for members in sizes.values():
            latents = self.model.autoencoder.encode(torch.stack([video[i] for i in members]))
            ids, coded = latents.ids, coded | dict(zip(members, latents.clips(), strict=True))
        return Latents(tuple(coded[i] for i in range(len(video))), ids)

    def _fill(self, most: int, stop: Callable[[], bool]) -> Cache | None:
        """The cache of every clip that this phase will see, or None where it would be too large."""
        seen = sorted({n for start in self._starts() for _, n in self.order.at(start, self.share.batch)})
        blocks = [seen[i : i + BLOCK] for i in range(0, len(seen), BLOCK)]
        kept: list[Batch] = []
        with ThreadPoolExecutor(max_workers=1) as worker:
            ahead = worker.submit(self.dataset.batch, "train", blocks[0])
            for i in range(len(blocks)):
                batch = ahead.result()
                if i + 1 < len(blocks):
                    ahead = worker.submit(self.dataset.batch, "train", blocks[i + 1])
                coded = self._encoded(batch.to(self.device))
                if coded.latents is None:
                    return None
                held = sum(clip.numel() * clip.element_size() for clip in coded.latents.clips())
                if i == 0 and held * len(blocks) > most:
                    return None
                kept.append(coded)
                if stop():
                    return None
        return Cache(seen, kept)

    def _starts(self) -> range:
        span = min(self.steps * self.share.batch, self.order.length)
        return range(0, span, self.share.batch)


class Cache:
    """Encoded clips in memory, on the model's device, with what is said of them."""

    def __init__(self, numbers: Sequence[int], blocks: Sequence[Batch]) -> None:
        self.row = np.full(max(numbers) + 1, -1, dtype=np.int64)
        self.row[list(numbers)] = np.arange(len(numbers))
        first = blocks[0]
        assert first.latents is not None
        self.ids = first.latents.ids
        clips = [clip for b in blocks if b.latents is not None for clip in b.latents.clips()]
        self.values = clips if first.latents.mixed else torch.stack(clips)
        self.spread = _stacked([b.latents.spread if b.latents else None for b in blocks])
        self.earlier = _stacked([b.earlier for b in blocks])
        self.prompts = None if first.prompt is None else np.array([p for b in blocks for p in b.prompt or ()], object)
        self.labels = _stacked([b.label for b in blocks])
        self.actions = _stacked([b.actions for b in blocks])

    def batch(self, numbers: Sequence[int]) -> Batch:
        rows = self.row[list(numbers)]
        at = torch.from_numpy(rows).to(self.values[0].device)
        values = tuple(self.values[i] for i in rows.tolist()) if isinstance(self.values, list) else self.values[at]
        return Batch(
            prompt=None if self.prompts is None else tuple(self.prompts[rows]),
            label=None if self.labels is None else self.labels[at],
            actions=None if self.actions is None else self.actions[at],
            clips=tuple(numbers),
            latents=Latents(values, self.ids, None if self.spread is None else self.spread[at]),
            earlier=None if self.earlier is None else self.earlier[at],
        )


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [t for t in tensors if t is not None]
    return torch.cat(given) if len(given) == len(tensors) else None
