"""Long videos and loops: windows that are sampled one after another, each with known frames of those made before.

What is sampled at a time is one window, so that the memory of the device does not depend on the duration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.request import Request

Sample = Callable[[Request, int], Tensor]
"""The video of a request of one window, B C T H W on the CPU. The number is that of the window, for its draws."""


@dataclass(frozen=True)
class Span:
    """Frames start, start + 1, ..., stop - 1 of a video."""

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)


def made_by_windows(request: Request, frames: int, size: tuple[int, int], sample: Sample) -> Tensor:
    """The video of a request, B C T H W. frames, size: of the data, where the request says none."""
    wanted, size = request.shape(frames, size)
    window, overlap = extent(request, frames if request.loop else wanted)
    if request.loop:
        return _looped(replace(request, size=size), frames, window, overlap, sample)
    if wanted <= window:
        return sample(replace(request, window=None, overlap=None), 0)
    if request.source is None:
        chunks = streamed(replace(request, size=size), window, overlap, sample)
        made, held = [], 0
        while held < wanted:
            made.append(next(chunks))
            held += made[-1].shape[2]
        return torch.cat(made, dim=2)[:, :, :wanted]
    if request.stays is None:
        raise InputError(field="window", problem="a video is edited as a whole, not by windows", got=window)
    return filled(replace(request, anew=True), window, overlap, sample, count(1))


def streamed(request: Request, window: int, overlap: int, sample: Sample) -> Iterator[Tensor]:
    """New frames of a video without an end, B C T H W, a window's at a time; only its last frames are kept."""
    plain = replace(request, window=None, overlap=None, loop=False)
    new = sample(replace(plain.within(slice(0, window)), frames=window), 0)
    tail, step = new[:, :, -overlap:], window - overlap
    yield new
    for i in count(1):
        asked = plain.within(slice(i * step, i * step + window)).extending(tail, after=step)
        new = sample(asked, i)[:, :, overlap:]
        tail = torch.cat([tail, new], dim=2)[:, :, -overlap:]
        yield new


def extent(request: Request, frames: int) -> tuple[int, int]:
    """Frames of a window and of its overlap with what is made before. Raises InputError."""
    window = request.window or frames
    overlap = request.overlap if request.overlap is not None else max(1, (window - 1) // 2)
    if not 0 < overlap < window and (request.loop or request.window is not None):
        allowed = f"1 to {window - 1}: a window has {window} frames"
        raise InputError(field="overlap", problem="is no part of a window", got=overlap, allowed=allowed)
    return window, overlap


def filled(request: Request, window: int, overlap: int, sample: Sample, numbers: Iterator[int]) -> Tensor:
    """The source of a request with every frame that does not stay made, window by window."""
    assert request.source is not None
    assert request.stays is not None
    video, stays = request.source.clone(), request.stays.clone()
    whole = stays.flatten(2).all(dim=2).all(dim=0)
    while not bool(whole.all()):
        span = next_window(whole.tolist(), window, overlap)
        asked = replace(request, source=video, stays=stays, window=None, overlap=None).within(span.slice)
        assert asked.stays is not None
        video[:, :, span.slice] = sample(replace(asked, stays=asked.stays.clone()), next(numbers))
        stays[:, span.slice] = True
        whole[span.slice] = True
    return video


def next_window(made: list[bool], window: int, overlap: int) -> Span:
    """The next window of a video of which some frames are made: beside what is made, with an overlap of it."""
    start = made.index(False)
    stop = next((t for t in range(start, len(made)) if made[t]), len(made))
    latest = len(made) - window
    if start > 0 and stop < len(made) and stop - start + 2 <= window:
        # What is left between two made parts fits: both are seen, the later one for at most the overlap.
        after = min(overlap, window - (stop - start) - 1, len(made) - stop)
        begin = stop + after - window
    elif start > 0:
        begin = start - overlap
    elif stop < len(made):
        begin = stop + overlap - window
    else:
        begin = 0
    begin = max(0, min(begin, latest))
    return Span(begin, begin + window)


def _looped(request: Request, frames: int, window: int, overlap: int, sample: Sample) -> Tensor:
    """A video whose end leads on to its beginning: the beginning is known once more after the end.

    Of a source all frames stay, and those that lead back are added; else they are among the frames asked for.
    """
    if request.stays is not None:
        raise InputError(field="loop", problem="joins the end of a video to its beginning; give it without `stays`")
    back = max(1, window - 2 * overlap)
    if request.source is not None:
        base = request.source
    else:
        kept = max((request.frames or frames + back) - back, overlap)
        body = replace(request, frames=max(kept, window), window=window, loop=False).within(slice(0, max(kept, window)))
        base = made_by_windows(body, frames, request.size or (1, 1), sample)[:, :, :kept]
    t, head = base.shape[2], base[:, :, :overlap]
    if t < overlap:
        raise InputError(field="source", problem=f"to loop a video it has at least {overlap} frames", got=t)
    between = base[:, :, -1:].expand(-1, -1, back, -1, -1)
    around = torch.cat([base, between, head], dim=2)
    stays = torch.ones(len(base), *around.shape[2:], dtype=torch.bool)
    stays[:, t : t + back] = False
    asked = replace(request, source=around, stays=stays, anew=True, loop=False, frames=None)
    # Actions of the frames that are seen once more.
    if request.actions is not None:
        asked = replace(asked, actions=tuple((*row[: t + back], *row[:overlap]) for row in request.actions))
    return filled(asked, min(window, around.shape[2]), overlap, sample, count(1000))[:, :, : t + back]
