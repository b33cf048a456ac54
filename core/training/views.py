"""The data as a stage of a cascade sees it: fewer frames, fewer pixels, and the earlier stage's target beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import InputError
from mutoscope.core.values import Batch

Shape = tuple[int, tuple[int, int]]
"""Frames, and rows and columns."""


class Seen:
    """A dataset through a stage's eyes. own: what the stage sees. before: what the stage before it makes, or None."""

    def __init__(self, dataset: Dataset, own: Shape, before: Shape | None) -> None:
        self.dataset, self.own, self.before = dataset, own, before
        self.fixed = dataset.fixed

    def length(self, split: str) -> int:
        return self.dataset.length(split)

    def batch(self, split: str, indices: Sequence[int], epoch: int = 0) -> Batch:
        """The clips at the stage's size; `earlier` is the target of the stage before it."""
        batch = self.dataset.batch(split, indices, epoch)
        if not isinstance(batch.video, Tensor):
            return batch
        chosen = torch.tensor(kept_frames(batch.video.shape[2], self.own[0]))
        return replace(
            batch,
            video=shown(batch.video, self.own),
            actions=None if batch.actions is None else batch.actions[:, chosen],
            earlier=None if self.before is None else shown(batch.video, self.before),
        )


def seen_by(dataset: Dataset, stage: str, stages: Sequence[str], views: Mapping[str, Shape]) -> Dataset | Seen:
    """The data of a stage; the dataset itself where there is but one stage."""
    if len(stages) < 2 or stage not in views:
        return dataset
    place = list(stages).index(stage)
    return Seen(dataset, views[stage], views[stages[place - 1]] if place else None)


def shown(video: Tensor, shape: Shape) -> Tensor:
    """B C T H W with so many frames, evenly from the first, and so many rows and columns, by averaging."""
    frames, size = shape
    if frames != video.shape[2]:
        video = video[:, :, kept_frames(video.shape[2], frames)]
    if tuple(size) == tuple(video.shape[3:]):
        return video
    flat = F.interpolate(rearrange(video, "b c t h w -> (b t) c h w"), size=tuple(size), mode="area")
    return rearrange(flat, "(b t) c h w -> b c t h w", t=frames)


def kept_frames(frames: int, count: int) -> list[int]:
    """Which of the frames are kept. Raises InputError where there are too few."""
    if count > frames:
        raise InputError(field="view.frames", problem=f"the data has clips of {frames} frames", got=count)
    return [i * frames // count for i in range(count)]
