"""The feed: from a step's number to its clips, with what frozen parts make of them made once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.dataset import Dataset, Order
from mutoscope.core.errors import DataError
from mutoscope.core.model import Model
from mutoscope.core.randomness import Draw
from mutoscope.core.storage.failpoints import reach, spoiled
from mutoscope.core.training.views import Seen
from mutoscope.core.values import Batch, Latents

LOOK = 0.2
"""Seconds between two looks at whether a stop was asked for, while data is waited for."""
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
        # Of many processes none may stop by itself: they vote, between steps.
        self.stop = stop if share.processes == 1 else lambda: False
        self.cut = False
        self.opening = max((c.sees for c in model.conditioners), default=0) if latents else 0
        self.writes = latents and any(c.reads_written for c in model.conditioners)
        self.cached = self._fill(cache) if latents and dataset.fixed else None

    def from_step(self, step: int) -> Iterator[list[tuple[range, Batch]]]:
        """The micro-batches (places, batch) of steps `step`, `step + 1`, ...; the next one is prepared in a thread."""
        if self.cached is not None:
            for i in range(step, self.steps):
                yield [(places, self.cached.batch(self._numbers(i, places))) for places in self.share.places()]
            return
        with _Ahead(self._load, range(step, self.steps if not self.cut else step), self.stop) as ahead:
            for loaded in ahead:
                yield [(places, self._encoded(batch.to(self.device))) for places, batch in loaded]

    def largest(self) -> list[tuple[range, Batch]] | None:
        """A micro-batch of the clips with the most pixels, where clips are of several sizes; else None."""
        if isinstance(self.dataset, Seen) or self.cut:
            return None
        numbers = self._seen()
        sizes = self.dataset.sizes("train", numbers)
        if sizes is None or len(set(sizes)) < 2:
            return None
        order = sorted(range(len(numbers)), key=lambda i: (-sizes[i][0] * sizes[i][1] * sizes[i][2], i))
        chosen = [numbers[i] for i in order[: self.share.micro]]
        chosen += [chosen[0]] * (self.share.micro - len(chosen))
        places = range(self.share.micro)
        if self.cached is not None:
            return [(places, self.cached.batch(chosen))]
        return [(places, self._encoded(self.dataset.batch("train", chosen).to(self.device)))]

    def _numbers(self, step: int, places: range) -> list[int]:
        """The clip numbers at these places of a step."""
        return [number for _, number in self.order.at(step * self.share.batch + places.start, len(places))]

    def _load(self, step: int) -> list[tuple[range, Batch]]:
        reach("data.load")
        loaded = []
        for places in self.share.places():
            drawn = self.order.at(step * self.share.batch + places.start, len(places))
            loaded.append((places, self.dataset.batch("train", [n for _, n in drawn], epoch=drawn[0][0])))
        return loaded

    @torch.no_grad()
    def _encoded(self, batch: Batch) -> Batch:
        if not self.latents or batch.video is None:
            return _spoilt(batch)
        batch = _spoilt(batch)
        if isinstance(batch.video, tuple):
            return replace(batch, latents=self._encoded_sizes(batch.video), video=None)
        opening = batch.video[:, :, : self.opening].clone() if self.opening else None
        if self.writes:
            batch = replace(batch, written=self._written(batch.video, batch.clips))
        return _spoilt(replace(batch, latents=self.model.autoencoder.encode(batch.video), video=None, opening=opening))

    def _written(self, video: Tensor, clips: tuple[int, ...]) -> tuple[str, ...]:
        """What the writer says of clips; a function of the clip."""
        return tuple(self.model.writer.write(video, Draw(0, "written", 0, clips, self.device)))

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

    def _fill(self, most: int) -> Cache | None:
        """The cache of every clip that this phase will see, or None where it would be too large, or sees none.

        A stop cuts it short, and then no step is taken: clips encoded one by one need not be those of the cache to
        the last bit.
        """
        seen = self._seen()
        blocks = [seen[i : i + BLOCK] for i in range(0, len(seen), BLOCK)]
        kept: list[Batch] = []

        def load(i: int) -> Batch:
            reach("data.cache")
            return self.dataset.batch("train", blocks[i])

        with _Ahead(load, range(len(blocks)), self.stop) as ahead:
            for batch in ahead:
                coded = self._encoded(batch.to(self.device))
                if coded.latents is None:
                    return None
                held = sum(clip.numel() * clip.element_size() for clip in coded.latents.clips())
                if not kept and held * len(blocks) > most:
                    return None
                kept.append(coded)
        self.cut = len(kept) < len(blocks)
        return Cache(seen, kept) if seen and not self.cut else None

    def _seen(self) -> list[int]:
        """The numbers of all clips that this phase will see."""
        return sorted({n for start in self._starts() for _, n in self.order.at(start, self.share.batch)})

    def _starts(self) -> range:
        span = min(self.steps * self.share.batch, self.order.length)
        return range(0, span, self.share.batch)


class _Ahead:
    """What `load` gives for each place, in order, made one or two ahead in a thread; ends early when a stop is asked.

    A thread of its own and not a pool, which would be waited for at the end of the process: data that never comes must
    not hold up one that is to stop.
    """

    def __init__(self, load: Callable[[int], Any], places: Iterable[int], stop: Callable[[], bool]) -> None:
        self.load, self.places, self.stop = load, list(places), stop
        self.made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._work, name="loading", daemon=True)

    def __enter__(self) -> _Ahead:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        with suppress(queue.Empty):
            self.made.get_nowait()
        self.thread.join(timeout=LOOK if self.stop() else None)

    def __iter__(self) -> Iterator[Any]:
        for _ in self.places:
            while True:
                try:
                    loaded, failed = self.made.get(timeout=LOOK)
                    break
                except queue.Empty:
                    if self.stop():
                        return
            if failed is not None:
                raise failed
            yield loaded

    def _work(self) -> None:
        for place in self.places:
            try:
                made = (self.load(place), None)
            except BaseException as failed:
                made = (None, failed)
            while not self.over.is_set():
                try:
                    self.made.put(made, timeout=LOOK)
                    break
                except queue.Full:
                    continue
            if self.over.is_set() or made[1] is not None:
                return


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
        self.opening = _stacked([b.opening for b in blocks])
        self.prompts = None if first.prompt is None else np.array([p for b in blocks for p in b.prompt or ()], object)
        written = [text for b in blocks for text in b.written or ()]
        self.written = np.array(written, object) if written else None
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
            opening=None if self.opening is None else self.opening[at],
            written=None if self.written is None else tuple(self.written[rows]),
        )


def _spoilt(batch: Batch) -> Batch:
    """Two failpoints."""
    if isinstance(batch.video, Tensor):
        return replace(batch, video=spoiled("data.video", batch.video))
    if batch.latents is not None and isinstance(batch.latents.values, Tensor) and not batch.latents.ids:
        return replace(batch, latents=replace(batch.latents, values=spoiled("data.latents", batch.latents.values)))
    return batch


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [t for t in tensors if t is not None]
    return torch.cat(given) if len(given) == len(tensors) else None
