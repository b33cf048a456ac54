"""Decoding in child processes against decoding in place, in one run: at least 0.9 of its rate.

In place is the very decoder that a child runs, without a child, and a plain PyAV loop, written here: once of one thread
against one child, and once as it stands, where libavcodec takes all cores for the slices of a frame, against the two
children of a default. All decode the same frames and resize them with the same call. Thirty interleaved pairs; as with
every speed bar, the better end of the 95% interval of the median must be within it.
"""

from __future__ import annotations

import time
from pathlib import Path

import av
import numpy as np
import pytest
from scipy import stats

from mutoscope.plugins.data import decoder
from mutoscope.plugins.data.cutting import Cut, pixels_of, window_of
from mutoscope.plugins.data.folder import Folder
from mutoscope.plugins.data.index import Probe

PAIRS = 30
FRAMES = 17


def same_decoder(path: Path, places: np.ndarray, cut: Cut, probe: Probe):
    """What the child does, here."""
    out = np.empty((len(places), *probe.stored, 3), np.uint8)
    decoder.read([str(path)], probe.stamps[places].tolist(), out)
    return pixels_of(window_of(out, cut), cut)


def plain_loop(path: Path, places: np.ndarray, cut: Cut, probe: Probe, threads: int = 0):
    """The first frames of a file, as one writes it without a second thought."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = threads
        frames = []
        for n, frame in enumerate(container.decode(video=0)):
            if n in places:
                frames.append(frame.to_ndarray(format="rgb24"))
            if n >= places[-1]:
                break
    return pixels_of(window_of(np.stack(frames), cut), cut)


def plain_loop_of_one_thread(path: Path, places: np.ndarray, cut: Cut, probe: Probe):
    return plain_loop(path, places, cut, probe, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize(("rival", "workers"), [(same_decoder, 1), (plain_loop_of_one_thread, 1), (plain_loop, 2)])
@pytest.mark.parametrize("size", [(120, 160), (240, 320), (720, 1280)])
def test_children_are_as_fast_as_decoding_in_place(tmp_path, make, size, rival, workers, capsys):
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)

    def moving(n: int, size: tuple[int, int]) -> np.ndarray:
        return np.roll(texture // 2 + make.picture(n, size) // 2, 3 * n, axis=1)

    make.video(tmp_path / "a.mp4", frames=40, size=size, image=moving)
    dataset = Folder(
        path=str(tmp_path), frames=FRAMES, fps=12, size=(64, 64), start="first", held=(0, 0), workers=workers
    )  # fmt: skip
    (clip,) = dataset.contents.clips["train"]
    cut = dataset._cut("train", 0, 0, clip.probe)
    clips = max(2, 24 // max(1, size[0] // 120) ** 2)

    def child() -> float:
        started = time.perf_counter()
        dataset.batch("train", [0] * clips)
        return time.perf_counter() - started

    def here() -> float:
        started = time.perf_counter()
        for _ in range(clips):
            rival(tmp_path / "a.mp4", cut.places, cut, clip.probe)
        return time.perf_counter() - started

    one = dataset.batch("train", [0]).video[0]
    assert (one - rival(tmp_path / "a.mp4", cut.places, cut, clip.probe)).abs().max() < 0.02
    child(), here()
    ratios = []
    for pair in range(PAIRS):
        first, second = (child, here) if pair % 2 else (here, child)
        a, b = first(), second()
        ratios.append(a / b if first is here else b / a)  # rate of the child over the rate in place
    interval = stats.bootstrap((ratios,), np.median, confidence_level=0.95, rng=np.random.default_rng(0))
    low, high = interval.confidence_interval
    with capsys.disabled():
        told = f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
        print(f"\n{size[0]} x {size[1]}: {workers} of children / {rival.__name__} {told}")
    dataset.pool.close()
    assert high >= 0.9  # lower end of the cost, upper end of the rate
