"""A run goes on with the data that it began with, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from mutoscope.core.errors import InputError

RECIPE = """
data: {{type: folder, path: {path}, frames: 3, size: [8, 8], fps: 8, held: [0.0, 0.0], workers: 1, start: first}}
autoencoder: identity
patchifier: {{type: spacetime, size: [1, 4, 4]}}
denoiser: {{type: dit, width: 16, depth: 1, heads: 2}}
objective: flow
sampler: {{type: euler, steps: 2}}
training: {{batch: 2, steps: 4, warmup: 1, checkpoint_every: 1, keep: 9, log_every: 1}}
"""


def film(path: Path, level: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())


@pytest.fixture
def begun(tmp_path: Path, train: Callable, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """A recipe, its folder of four films, and a run that has two steps of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for n in range(4):
        film(data / f"{n}.mp4", 40 * n)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(path=data))
    run = train(recipe, tmp_path / "whole" / "run")
    for step in (3, 4):
        shutil.rmtree(run / "checkpoints" / f"step-0000000{step}")
    return recipe, data, run


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda data: film(data / "1.mp4", 200),
    "added": lambda data: film(data / "9.mp4", 7),
    "removed": lambda data: (data / "2.mp4").unlink(),
    "captioned": lambda data: (data / "2.txt").write_text("a film"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_is_refused(change: str, begun: tuple[Path, Path, Path], train: Callable):
    recipe, data, run = begun
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    CHANGES[change](data)
    with pytest.raises(InputError, match=r"the data is not what this run began with") as told:
        train(recipe, run)
    assert str(run) in str(told.value)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_the_same_data_goes_on(begun: tuple[Path, Path, Path], train: Callable, tmp_path: Path):
    """Also where it was touched, copied, or looked into anew."""
    recipe, data, run = begun
    shutil.copytree(data, tmp_path / "copy")
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "copy", data, copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "cache")
    train(recipe, run)
    assert (run / "checkpoints" / "step-00000004").is_dir()
    assert json.loads((run / "run.json").read_text())["data"].startswith("folder:")
