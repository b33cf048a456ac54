"""`sample`: the files are what was asked for, named and indexed; mistakes are one line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import mutoscope
from mutoscope.benchmarks.video_files import as_bytes, encode
from mutoscope.core.storage.lock import RunLock


def frames_of(file: Path | bytes) -> np.ndarray:
    """T H W 3 uint8."""
    opened = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    with av.open(opened) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def pngs_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        images = []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            images.append(np.asarray(image.convert("RGB")))
    return np.stack(images)


def index_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_prompts_become_files(verb: Callable, run: Path):
    said = verb("sample", run, "--prompt", "a red circle moves left", "--prompt", "a blue square stays", "--count", 2)
    assert said.code == 0, said.err
    files = [Path(line) for line in said.lines]
    assert len(set(files)) == 4
    assert {file.parent for file in files} == {run / "samples"}
    assert all(file.name.startswith(("a-red-circle-moves-left-", "a-blue-square-stays-")) for file in files)
    assert all(len(frames_of(file)) == 5 for file in files)
    index = index_of(run / "samples")
    assert [record["file"] for record in index] == [file.name for file in files]
    assert [record["prompt"] for record in index] == ["a red circle moves left"] * 2 + ["a blue square stays"] * 2
    assert [record["clip"] for record in index] == [0, 1, 2, 3]
    assert {(record["seed"], record["frames"], *record["size"], record["step"]) for record in index} == {
        (0, 5, 8, 8, 6)
    }


def test_a_png_has_the_pixels_that_python_gives(verb: Callable, run: Path):
    said = verb("sample", run, "--prompt", "a red circle moves left", "--format", "png", "--seed", 3, "--json")
    [record] = said.json
    video = mutoscope.load(run, device="cpu").generate("a red circle moves left", seed=3)
    assert np.array_equal(pngs_of(Path(record["path"])), as_bytes(video)[0])


def test_the_same_request_gives_the_same_files(verb: Callable, run: Path):
    first = verb("sample", run, "--prompt", "a red circle moves left", "--format", "gif")
    before = Path(first.lines[0]).read_bytes()
    again = verb("sample", run, "--prompt", "a red circle moves left", "--format", "gif")
    other = verb("sample", run, "--prompt", "a red circle moves left", "--format", "gif", "--seed", 1)
    assert first.lines == again.lines != other.lines
    assert Path(again.lines[0]).read_bytes() == before
    assert len(index_of(run / "samples")) == 2


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--size", "8", "12"], [8, 12]),
        (["--size", "8x12"], [8, 12]),
        (["--size", "12"], [12, 12]),
    ],
)
def test_sizes(words: list[str], size: list[int], verb: Callable, run: Path):
    for order in ([run, *words], [*words, run]):
        said = verb("sample", *order, "--frames", 3, "--format", "png", "--json")
        assert said.code == 0, said.err
        [record] = said.json
        assert (record["frames"], record["size"], record["notes"]) == (3, size, [])
        assert pngs_of(Path(record["path"])).shape == (3, *size, 3)


def test_what_is_trimmed_is_said(verb: Callable, run: Path):
    said = verb("sample", run, "--size", "9x8", "--frames", 2, "--format", "png", "--json")
    [record] = said.json
    assert (record["frames"], record["size"]) == (2, [9, 8])
    assert "sampled 3 frames of 12 x 8" in record["notes"][0]
    assert record["notes"][0] in said.err


def test_a_file_of_prompts_and_another_folder(verb: Callable, run: Path, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a red circle moves left\n\n  a blue square stays \n")
    asked = ("sample", run, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out", "--format", "mp4")
    with RunLock(run):  # whoever trains may prune what is read here
        assert verb(*asked).code == 3
    said = verb(*asked)
    assert said.code == 0, said.err
    assert [record["prompt"] for record in index_of(tmp_path / "out")] == [
        "a red circle moves left",
        "a blue square stays",
    ]
    assert not (run / "samples").exists()


def test_a_pretrained_folder_samples_the_same(verb: Callable, run: Path, tmp_path: Path):
    assert verb("export", run, tmp_path / "model").lines == [str(tmp_path / "model")]
    words = ("--prompt", "a red circle moves left", "--format", "png")
    [one], [other] = verb("sample", run, *words).lines, verb("sample", tmp_path / "model", *words).lines
    assert Path(other).parent == tmp_path / "model" / "samples"
    assert np.array_equal(pngs_of(Path(one)), pngs_of(Path(other)))


def test_labels_and_actions_of_a_cascade(verb: Callable, cascade: Path, tmp_path: Path):
    words = ("--prompt", "a red circle moves left", "--format", "png", "--out", tmp_path, "--json")
    said = verb("sample", cascade, *words, "--label", 3, "--label", 4, "--actions", "1,1,2,2,0")
    assert said.code == 0, said.err
    assert [(r["label"], r["actions"]) for r in said.json] == [(3, [1, 1, 2, 2, 0]), (4, [1, 1, 2, 2, 0])]
    assert all(r["size"] == [16, 16] for r in said.json)
    other = verb("sample", cascade, *words, "--label", 3, "--actions", "3,3,3,3,3").json[0]
    assert not np.array_equal(pngs_of(Path(said.json[0]["path"])), pngs_of(Path(other["path"])))


def test_mistakes(refused: Callable, run: Path, tmp_path: Path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    cases = {
        ("sample",): "Missing argument",
        ("sample", tmp_path): "not a run folder",
        ("sample", run, run): "one run at a time",
        ("sample", run, "--format", "avi"): "no such format",
        ("sample", run, "--size", "8y9"): "must be rows and columns",
        ("sample", run, "--size", "0x9"): "must be rows and columns",
        ("sample", run, "--frames", "0"): "'--frames'",
        ("sample", run, "--count", "0"): "'--count'",
        ("sample", run, "--label", "3"): "--label: nothing in this model reads it; allowed: what it reads: prompt",
        ("sample", run, "--actions", "1,2"): "--actions: nothing in this model reads it",
        ("sample", run, "--actions", "1,a"): "whole numbers",
        ("sample", run, "--prompts", tmp_path / "nowhere.txt"): "cannot be read",
        ("sample", run, "--prompts", tmp_path / "empty.txt"): "no prompt",
        ("sample", run, "--prompts", tmp_path / "latin.txt"): "UTF-8",
    }
    for words, said in cases.items():
        assert said in refused(*words), words
    assert not (run / "samples").exists()


def test_numbers_that_do_not_agree(refused: Callable, cascade: Path):
    words = ("--prompt", "a", "--prompt", "b", "--label", 1, "--label", 2, "--label", 3)
    assert "one for each of 3" in refused("sample", cascade, *words)


def test_a_locked_run(refused: Callable, run: Path):
    with RunLock(run):
        assert "is in use by process" in refused("sample", run, code=3)
        assert "is in use by process" in refused("evaluate", run, "--clips", 4, code=3)


@pytest.mark.parametrize("shape", [(5, 8, 8), (3, 131, 137), (1, 16, 24)])
@pytest.mark.parametrize("format", ["webm", "mp4", "gif", "png"])
def test_every_format_shows_the_clip(format: str, shape: tuple[int, int, int]):
    """What comes out of a decoder is the clip, up to the codec's error, at its rate."""
    t, h, w = shape
    rows, columns = np.linspace(0, 255, h), np.linspace(255, 0, w)
    plane = np.stack(
        [np.add.outer(rows, columns) / 2, np.add.outer(rows, 0 * columns), np.add.outer(0 * rows, columns)]
    )
    clip = np.stack([np.moveaxis(plane, 0, -1) * (1 - 0.1 * i) for i in range(t)]).astype(np.uint8)
    data = encode(clip, 8.0, format)
    shown = frames_of(data)
    if format == "png" and t > 1:  # a plain PNG decoder sees the first frame of an animation
        with Image.open(io.BytesIO(data)) as image:
            assert image.n_frames == t  # type: ignore[attr-defined]
        shown = shown[:1]
        clip = clip[:1]
    assert len(shown) == len(clip)
    factor = max(1, shown.shape[1] // h)
    seen = shown[:, factor // 2 :: factor, factor // 2 :: factor][:, :h, :w]
    error = np.abs(seen.astype(float) - clip).mean()
    assert error <= {"png": 0, "gif": 8}.get(format, 5), error
    if format in ("webm", "mp4"):
        with av.open(io.BytesIO(data)) as container:
            assert float(container.streams.video[0].average_rate or 8) == pytest.approx(8.0)
