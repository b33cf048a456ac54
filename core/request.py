"""What is asked of a model: text to video, an image to animate, a video to go on from, to connect, to fill or to edit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.settings import Precision
from mutoscope.core.values import Batch

EACH = ("prompts", "labels", "actions", "clips", "source", "stays")
"""Fields with an entry per clip."""


@dataclass(frozen=True)
class Request:
    """What is asked for. Fields that are None take the training data's value, or are drawn by the conditioners.

    prompts, labels, actions: one per clip; actions are one row of integers per clip. count: clips, where nothing else
    says how many. frames, size (rows, columns): of the video; any that the model's parts can cover. seed: of all
    draws. clips: the number of each clip in those draws, by default 0, 1, ...; a clip's sample depends on the seed and
    its own number, not on its batch mates. at_once: clips in one batch. precision: of matrix products.

    source: a video, B C T H W in [-1, 1], of which frames and size are those of the request. stays: which of its pixels
    stay as they are, B T H W booleans; the rest is made to go with them. Without `stays` the whole of it is edited, by
    a sampler that edits. anew: what does not stay is made from noise alone, by a sampler that edits too.

    window: most frames that are sampled together; a longer video is made window by window, each going on from the last
    `overlap` frames before it, so that the memory of the device does not grow with the duration. overlap: by default
    just under half of the window. loop: the last frame leads on to the first.

    expand: prompts are first made longer by the model's writer.
    """

    prompts: tuple[str, ...] | None = None
    labels: tuple[int, ...] | None = None
    actions: tuple[tuple[int, ...], ...] | None = None
    count: int | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    clips: tuple[int, ...] | None = None
    at_once: int = 64
    precision: Precision = "float32"
    source: Tensor | None = None
    stays: Tensor | None = None
    anew: bool = False
    window: int | None = None
    overlap: int | None = None
    loop: bool = False
    expand: bool = False

    def __len__(self) -> int:
        given = {name: len(value) for name in EACH if (value := getattr(self, name)) is not None}
        if self.count is not None:
            given["count"] = self.count
        if len(set(given.values())) > 1:
            raise InputError(f"a request has one of each per clip; got {given}")
        return next(iter(given.values()), 1)

    # Tasks that begin from video

    def animating(self, image: Tensor, frames: int) -> Request:
        """So many frames that begin with an image, B C H W or B C 1 H W."""
        first = image[:, :, None] if image.ndim == 4 else image
        return self.extending(first, after=frames - 1)

    def extending(self, video: Tensor, *, before: int = 0, after: int = 0) -> Request:
        """A video B C T H W with further frames before it, after it, or both."""
        if before < 0 or after < 0 or before + after == 0:
            raise InputError("to extend a video asks for some frames before it or after it")
        around = [video[:, :, :1].expand(-1, -1, before, -1, -1), video, video[:, :, -1:].expand(-1, -1, after, -1, -1)]
        return self._showing(torch.cat(around, dim=2), range(before, before + video.shape[2]))

    def connecting(self, one: Tensor, other: Tensor, between: int) -> Request:
        """One video, so many new frames, and another video. Raises InputError where they differ in size."""
        if between < 1 or one.shape[:2] != other.shape[:2] or one.shape[3:] != other.shape[3:]:
            raise InputError(
                "connecting needs two videos of one size and at least one frame between them; "
                f"got {list(one.shape)} and {list(other.shape)}, {between} between"
            )
        blank = one[:, :, -1:].expand(-1, -1, between, -1, -1)
        t, whole = one.shape[2], torch.cat([one, blank, other], dim=2)
        return self._showing(whole, [*range(t), *range(t + between, whole.shape[2])])

    def filling(self, video: Tensor, stays: Tensor) -> Request:
        """A video B C T H W of which only the pixels that stay, B T H W, are looked at; the rest is made anew."""
        return replace(self, source=video, stays=stays, anew=True)

    def editing(self, video: Tensor) -> Request:
        """A video B C T H W, changed as the prompts say, by a sampler that edits."""
        return replace(self, source=video, stays=None, anew=False)

    def _showing(self, video: Tensor, frames: range | list[int]) -> Request:
        stays = torch.zeros(len(video), *video.shape[2:], dtype=torch.bool)
        stays[:, list(frames)] = True
        return replace(self, source=video, stays=stays, anew=True)

    # Shares of a request

    def parts(self) -> list[Request]:
        """The request in parts of at most `at_once` clips, each clip under its number."""
        n = len(self)
        if n < 1 or self.at_once < 1:
            raise InputError(f"a request asks for at least one clip, at least one at once; got {n} and {self.at_once}")
        whole = replace(self, clips=self.clips or tuple(range(n)), count=None)
        return [whole.cut(slice(i, i + self.at_once)) for i in range(0, n, self.at_once)]

    def cut(self, clips: slice) -> Request:
        """Some of the clips."""
        given = {name: value[clips] for name in EACH if (value := getattr(self, name)) is not None}
        return replace(self, **given, count=None if self.count is None else len(range(self.count)[clips]))

    def within(self, frames: slice) -> Request:
        """The same of some of the frames."""
        actions = None if self.actions is None else tuple(row[frames] for row in self.actions)
        source = None if self.source is None else self.source[:, :, frames]
        return replace(
            self, actions=actions, source=source, stays=None if self.stays is None else self.stays[:, frames]
        )

    def batch(self) -> Batch:
        """What is told of the clips; not their video."""
        return Batch(
            prompt=self.prompts,
            label=torch.tensor(self.labels) if self.labels is not None else None,
            actions=torch.tensor(self.actions) if self.actions is not None else None,
            clips=self.clips or tuple(range(len(self))),
        )

    def shape(self, frames: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        """Frames and size (rows, columns) of the video asked for: those of a source, its own, or these."""
        if self.source is not None:
            t, rows, columns = self.source.shape[2:]
            return t, (rows, columns)
        return self.frames or frames, self.size or size
