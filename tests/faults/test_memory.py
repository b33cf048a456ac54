"""Memory that does not suffice: one line with shape, bytes and what to lower; the largest clips are tried first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import WorkError
from mutoscope.core.storage.failpoints import arm
from mutoscope.core.training.turns import Turns

MIXED = """
data: {type: shapes, sizes: [[3, 8, 8], [5, 8, 16], [1, 8, 8]], clips: 12, held: 4}
autoencoder: identity
patchifier: {type: navit, size: [1, 4, 4]}
conditioner: {type: text, width: 16, depth: 1, heads: 2, length: 12}
denoiser: {type: navit, width: 16, depth: 1, heads: 2}
objective: flow
sampler: {type: euler, steps: 2}
training: {batch: 4, steps: 6, warmup: 2, checkpoint_every: 2, log_every: 1, ema: 0.9}
"""


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.yaml"
    path.write_text(MIXED)
    return path


def test_the_largest_clips_are_tried_before_the_first_step(mixed, train, tmp_path, monkeypatch):
    tried: list[tuple[int, ...]] = []
    original = Turns.rehearse

    def rehearse(self: Turns, step: int, micros: list) -> None:
        tried.extend(tuple(clip.shape) for _, batch in micros for clip in batch.latents.clips())
        original(self, step, micros)

    monkeypatch.setattr(Turns, "rehearse", rehearse)
    train(mixed, tmp_path / "a" / "run")
    assert len(tried) == 4
    assert tried == sorted(tried, key=lambda shape: -torch.Size(shape).numel())
    assert tried[0] == (3, 5, 8, 16)


def test_trying_changes_nothing(mixed, train, made_in, tmp_path, monkeypatch):
    tried = made_in(train(mixed, tmp_path / "a" / "run"))
    monkeypatch.setattr(Turns, "rehearse", lambda self, step, micros: None)
    assert made_in(train(mixed, tmp_path / "b" / "run")) == tried


def test_what_does_not_fit_is_told_before_the_first_step(mixed, train, tmp_path):
    arm("step.forward:memory")
    with pytest.raises(WorkError) as told:
        train(mixed, tmp_path / "run")
    said = str(told.value)
    assert re.search(
        r"^0-denoiser: out of memory: the largest clips do not fit, 4 clips of at most 3 x 5 x 8 x 16 latents at a time, "
        r"tried before the first step; more asked for beyond a peak of [\d,]+ bytes; lower training\.batch",
        said,
    ), said
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_step_that_does_not_fit_is_told(pixels, train, tmp_path):
    arm("step.forward@4:memory")
    with pytest.raises(
        WorkError, match=r"0-denoiser: out of memory: step 3 with 4 clips of at most 3 x 5 x 8 x 8 latents"
    ):
        train(pixels, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]


def test_the_system_that_gives_no_memory(pixels, commands, tmp_path):
    """A real limit of address space, and a batch of pixels that goes beyond it: exit 1 and one line with the bytes."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * 4096
    folder = tmp_path / "run"
    done = commands.run(
        "train", pixels, "training.batch=600", "data.clips=600", "data.size=[64, 64]", "data.frames=9", "training.steps=1",
        "denoiser.width=256", "--out", folder, "--device", "cpu", limits={"RLIMIT_AS": now + (1 << 30)},
    )  # fmt: skip
    told = [line for line in done.lines if line.startswith("mutoscope: ")]
    assert done.code == 1, done.stderr
    assert len(told) == 1
    assert re.search(
        r"0-denoiser: out of memory: .*; [\d.]+ ?\w+ more asked for beyond a peak of [\d,]+ bytes", told[0]
    )
    assert not list((folder / "checkpoints").glob("*"))
