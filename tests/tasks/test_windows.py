"""Long videos and loops, with a sampler that writes down what it was asked."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.request import Request
from mutoscope.core.windows import Span, made_by_windows, next_window

SIZE = (2, 2)


class Counting:
    """Continues the number of the frame before; a frame shows its number in thousandths, modulo `period`."""

    def __init__(self, period: int = 10_000) -> None:
        self.asked: list[Request] = []
        self.period = period

    def __call__(self, request: Request, number: int) -> Tensor:
        self.asked.append(request)
        frames, size = request.shape(9, SIZE)
        made = torch.zeros(len(request), 3, frames, *size)
        if request.source is None or request.stays is None:
            return made + torch.arange(frames).view(1, 1, -1, 1, 1) / 1000
        known = request.stays.flatten(2).all(2)[0].tolist()
        made[:] = request.source
        for t in range(1, frames):
            if not known[t] and (known[t - 1] or t > known.index(True)):
                made[:, :, t] = (made[:, :, t - 1] + 0.001) % (self.period / 1000)
        for t in reversed(range(frames - 1)):
            if not known[t] and t < known.index(True):
                made[:, :, t] = made[:, :, t + 1] - 0.001
        return made


def numbers(video: Tensor) -> list[int]:
    return (video[0, 0, :, 0, 0] * 1000).round().int().tolist()


@pytest.mark.parametrize(("frames", "window", "overlap"), [(30, 9, 4), (30, 9, 1), (9, 9, 4), (5, 9, 4), (31, 9, 8)])
def test_a_long_video_goes_on(frames: int, window: int, overlap: int):
    sample = Counting()
    video = made_by_windows(Request(frames=frames, window=window, overlap=overlap), 9, SIZE, sample)
    assert numbers(video) == list(range(frames))
    assert all(asked.shape(9, SIZE)[0] <= window for asked in sample.asked)
    for asked in sample.asked[1:]:
        assert asked.stays is not None
        assert asked.stays.flatten(2).all(2)[0].tolist() == [True] * overlap + [False] * (window - overlap)


def test_only_a_window_is_sampled_at_a_time_however_long_the_video():
    """The memory of a rollout is that of a window: what a sampler is asked does not grow with the duration."""
    from mutoscope.core.windows import streamed

    sample = Counting()
    total = 0
    for chunk in islice(streamed(Request(size=SIZE), 9, 4, sample), 200):
        total += chunk.shape[2]
    assert total == 9 + 199 * 5
    assert {asked.shape(9, SIZE)[0] for asked in sample.asked} == {9}
    assert {None if a.source is None else a.source.numel() for a in sample.asked[1:]} == {3 * 9 * 4}


def test_actions_go_with_their_frames():
    sample = Counting()
    actions = tuple(range(20))
    made_by_windows(Request(frames=20, window=8, overlap=2, actions=(actions,)), 8, SIZE, sample)
    assert [a.actions[0] for a in sample.asked if a.actions] == [actions[:8], actions[6:14], actions[12:20]]


def test_a_video_is_extended_both_ways_by_windows():
    video = torch.full((1, 3, 12, *SIZE), 0.0) + torch.arange(20, 32).view(1, 1, -1, 1, 1) / 1000
    sample = Counting()
    asked = Request(window=9, overlap=3).extending(video, before=7, after=10)
    assert numbers(made_by_windows(asked, 9, SIZE, sample)) == list(range(13, 42))
    assert all(a.shape(9, SIZE)[0] == 9 for a in sample.asked)


def test_two_videos_are_connected_in_one_window_that_sees_both():
    one = torch.arange(12).view(1, 1, -1, 1, 1).expand(1, 3, 12, *SIZE) / 1000
    other = torch.arange(15, 27).view(1, 1, -1, 1, 1).expand(1, 3, 12, *SIZE) / 1000
    sample = Counting()
    made = made_by_windows(Request(window=9, overlap=4).connecting(one, other, 3), 9, SIZE, sample)
    assert numbers(made) == list(range(27))
    [asked] = sample.asked
    assert asked.stays is not None
    assert asked.stays.flatten(2).all(2)[0].tolist() == [True, True, False, False, False, True, True, True, True]


def test_a_loop_sees_its_beginning_after_its_end():
    sample = Counting(period=12)
    loop = made_by_windows(Request(loop=True, frames=12, window=9, overlap=3), 9, SIZE, sample)
    assert numbers(loop) == list(range(12))
    assert sample.asked[-1].source is not None
    assert numbers(sample.asked[-1].source)[-3:] == [0, 1, 2]
    assert sample.asked[-1].stays is not None
    assert sample.asked[-1].stays.flatten(2).all(2)[0].tolist() == [True] * 3 + [False] * 3 + [True] * 3


def test_a_given_video_is_looped():
    video = torch.arange(8).view(1, 1, -1, 1, 1).expand(1, 3, 8, *SIZE) / 1000
    loop = made_by_windows(Request(loop=True, source=video, window=9, overlap=3), 9, SIZE, Counting(period=11))
    assert numbers(loop) == list(range(11))


def test_the_next_window_stands_beside_what_is_made():
    made = [False] * 10 + [True] * 4 + [False] * 10
    assert next_window(made, 6, 2) == Span(6, 12)
    assert next_window([True] * 4 + [False] * 10, 6, 2) == Span(2, 8)
    assert next_window([True] * 12 + [False], 6, 2) == Span(7, 13)
    assert next_window([True] * 4 + [False] * 2 + [True] * 8, 6, 3) == Span(3, 9)


@pytest.mark.parametrize("overlap", [0, 9, 12])
def test_an_overlap_is_part_of_a_window(overlap: int):
    with pytest.raises(InputError, match="overlap"):
        made_by_windows(Request(frames=30, window=9, overlap=overlap), 9, SIZE, Counting())


def test_requests_that_make_no_sense():
    video = torch.zeros(1, 3, 4, *SIZE)
    with pytest.raises(InputError, match="before it or after it"):
        Request().extending(video)
    with pytest.raises(InputError, match="two videos of one size"):
        Request().connecting(video, torch.zeros(1, 3, 4, 4, 4), 2)
    with pytest.raises(InputError, match="edited as a whole"):
        made_by_windows(Request(window=3).editing(video), 9, SIZE, Counting())
    with pytest.raises(InputError, match="joins the end"):
        made_by_windows(Request(loop=True).extending(video, after=2), 9, SIZE, Counting())
    with pytest.raises(InputError, match="at least"):
        made_by_windows(Request(loop=True, source=video[:, :, :1], window=9, overlap=3), 9, SIZE, Counting())


def test_parts_of_a_request_keep_their_clips():
    source = torch.rand(5, 3, 4, *SIZE)
    request = Request(prompts=tuple("abcde"), at_once=2).animating(source[:, :, 0], 3)
    parts = request.parts()
    assert [p.prompts for p in parts] == [("a", "b"), ("c", "d"), ("e",)]
    assert [p.clips for p in parts] == [(0, 1), (2, 3), (4,)]
    assert parts[1].source is not None
    assert torch.equal(parts[1].source[:, :, 0], source[2:4, :, 0])
