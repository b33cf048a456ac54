"""`sample` that begins from video files: what comes out begins, ends or agrees with them; mistakes are one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mutoscope.benchmarks.sources import read_video
from mutoscope.benchmarks.video_files import as_bytes, encode

PNG = ("--format", "png", "--json")


def pixels(file: Path | str) -> np.ndarray:
    """T H W 3."""
    return as_bytes(read_video(Path(file)))[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of 8 x 8, each of a grey of its own."""
    frames = np.full((5, 8, 8, 3), np.arange(40, 240, 40).reshape(5, 1, 1, 1), np.uint8)
    file = tmp_path_factory.mktemp("clips") / "clip.png"
    file.write_bytes(encode(frames, 8.0, "png"))
    return file


def made(verb: Callable, run: Path, *words: object) -> tuple[dict, np.ndarray, str]:
    said = verb("sample", run, "--prompt", "a red circle moves left", *words, *PNG)
    assert said.code == 0, said.err
    [record] = said.json
    return record, pixels(record["path"]), said.err


def test_every_task_keeps_what_it_was_given(verb: Callable, run: Path, clip: Path):
    """The run samples with euler and has learned of no known places: another sampler is taken, and said."""
    given = pixels(clip)
    record, video, told = made(verb, run, "--image", clip)
    assert np.array_equal(video[0], given[0])
    assert len(video) == 5
    assert "sampled with repaint, in the place of euler" in told
    assert record["task"]["animate"]["name"] == "clip.png"
    _, video, _ = made(verb, run, "--extend", clip, "--after", 4)
    assert np.array_equal(video[:5], given)
    assert len(video) == 9
    _, video, _ = made(verb, run, "--extend", clip, "--before", 4)
    assert np.array_equal(video[4:], given)
    _, video, _ = made(verb, run, "--connect", clip, "--connect", clip, "--between", 2)
    assert np.array_equal(video[:5], given)
    assert np.array_equal(video[7:], given)
    assert len(video) == 12


def test_edits_by_strength(verb: Callable, run: Path, clip: Path):
    same = made(verb, run, "--edit", clip, "--strength", 0)[1].astype(int)
    record, video, told = made(verb, run, "--edit", clip, "--strength", 0.9)
    assert "sampled with sdedit, in the place of euler" in told
    assert record["task"]["strength"] == 0.9
    assert np.abs(video.astype(int) - same).mean() > 1


def test_what_is_missing_is_filled(verb: Callable, run: Path, clip: Path, tmp_path: Path):
    given = pixels(clip)
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    video = made(verb, run, "--fill", clip, "--mask", tmp_path / "mask.png")[1]
    assert np.array_equal(video[:, :4], given[:, :4])
    assert not np.array_equal(video[:, 4:], given[:, 4:])
    video = made(verb, run, "--fill", clip, "--missing", "3-4")[1]
    assert np.array_equal(video[:3], given[:3])


def test_loops_and_long_videos(verb: Callable, run: Path):
    assert len(made(verb, run, "--loop")[1]) >= 5
    record, video, _ = made(verb, run, "--frames", 17, "--window", 5, "--overlap", 1)
    assert len(video) == 17
    assert record["task"] == {"window": 5, "overlap": 1}


def test_a_sampler_is_asked_for(verb: Callable, refused: Callable, run: Path):
    euler, heun = made(verb, run)[1], made(verb, run, "--sampler", "heun")[1]
    assert not np.array_equal(euler, heun)
    assert "raster works with a TokenDenoiser; denoiser is dit" in refused("sample", run, "--sampler", "raster")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image", "CLIP", "--edit", "CLIP"], "one task at a time; got --animate, --edit"),
        (["--after", 3], "--after: belongs to --extend FILE"),
        (["--strength", 0.5], "--strength: belongs to --edit FILE"),
        (["--extend", "CLIP"], "--before N or --after N"),
        (["--connect", "CLIP", "--between", 2], "give it twice"),
        (["--connect", "CLIP", "--connect", "CLIP"], "--between N"),
        (["--fill", "CLIP"], "--mask FILE or --missing FRAMES"),
        (["--fill", "CLIP", "--missing", "3-x"], "must be frames from 0"),
        (["--fill", "CLIP", "--missing", "9"], "the video has frames 0 to 4"),
        (["--loop", "--edit", "CLIP"], "does not go with --edit"),
        (["--image", "nowhere.png"], "cannot be read as a video or an image"),
        (["--edit", "TEXT"], "cannot be read as a video or an image"),
        (["--image", "TEXT.png"], "cannot be read as a video or an image"),
        (["--expand"], "needs a writer"),
        (["--window", 5, "--overlap", 5, "--frames", 9], "overlap: is no part of a window"),
    ],
)
def test_mistakes(words: list, said: str, refused: Callable, run: Path, clip: Path, tmp_path: Path):
    for name in ("text", "text.png"):
        (tmp_path / name).write_text("no video")
    files = {"CLIP": clip, "TEXT": tmp_path / "text", "TEXT.png": tmp_path / "text.png"}
    assert said in refused("sample", run, "--prompt", "red", *(files.get(word, word) for word in words))


@pytest.mark.parametrize("format", ["webm", "mp4", "gif", "png"])
def test_what_we_write_we_read(format: str, tmp_path: Path):
    """An enlarged file comes back at its size, up to the codec's error."""
    frames = np.full((4, 8, 12, 3), np.arange(50, 250, 50).reshape(4, 1, 1, 1), np.uint8)
    file = tmp_path / f"clip.{format}"
    file.write_bytes(encode(frames, 8.0, format))
    video = read_video(file, (8, 12))
    assert video.shape == (1, 3, 4, 8, 12)
    assert np.abs(as_bytes(video)[0].astype(int) - frames).mean() < 6
    assert torch.isfinite(video).all()


def test_records_name_the_files(verb: Callable, run: Path, clip: Path, tmp_path: Path):
    """The same file under another name is the same source; another file gives another sample's name."""
    other = tmp_path / "other.png"
    other.write_bytes(clip.read_bytes())
    one, two = made(verb, run, "--image", clip)[0], made(verb, run, "--image", other)[0]
    assert one["task"]["animate"]["hash"] == two["task"]["animate"]["hash"]
    index = [json.loads(line) for line in (run / "samples" / "samples.jsonl").read_text().splitlines()]
    assert {one["file"], two["file"]} <= {record["file"] for record in index}
