"""Values that are not finite: found in their step, named, and dealt with as the recipe says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import WorkError
from mutoscope.core.storage.checkpoint import listed, read_checkpoint, write_checkpoint
from mutoscope.core.storage.failpoints import arm
from mutoscope.core.storage.journal import Journal, read_journal

CASES = {
    "data.video@3:nan": (r"0-autoencoder: step 2: .*first in the video of training clip \d+$", ()),
    "step.loss@3:nan": (r"0-autoencoder: step 2: the learner turn's loss or gradient is not finite, first in the loss$",
                        ()),
    "step.gradient@4:nan": (r"0-autoencoder: step 3: .*first in the gradient of autoencoder\.\w+", ()),
    "data.latents@1:nan": (r"1-denoiser: step \d: .*first in the latents of training clip \d+$", ()),
    "step.loss@8:nan": (r"1-denoiser: step 2: .*first in the loss$", ()),
}  # fmt: skip


def finite(folder: Path) -> bool:
    return all(
        bool(torch.isfinite(t).all())
        for path in listed(folder / "checkpoints")
        for tensors in read_checkpoint(path)[0].values()
        for t in tensors.values()
        if t.is_floating_point()
    )


@pytest.mark.parametrize("fault", CASES)
def test_it_stops_in_that_step_and_names_the_place(fault, nano, train, tmp_path):
    said, overrides = CASES[fault]
    arm(fault)
    with pytest.raises(WorkError) as told:
        train(nano, tmp_path / "a" / "run", *overrides)
    assert re.search(said, str(told.value)), told.value
    assert finite(tmp_path / "a" / "run")


def test_weights_that_are_not_finite_are_named(nano, train, tmp_path):
    """A rate so large that the first update leaves the range of float32; the next step sees it."""
    with pytest.raises(WorkError, match=r"0-autoencoder: step 1: .*first in the weights of autoencoder\."):
        train(nano, tmp_path / "run", "training.lr=1e39", "training.warmup=0", "training.clip=0")
    assert finite(tmp_path / "run")


def test_a_skipped_step_changes_nothing(pixels, train, made_in, tmp_path):
    """Its update is left out, of weights, optimizer and average alike; the steps after it are taken."""
    arm("step.gradient@5:nan")
    folder = train(
        pixels, tmp_path / "a" / "run", "training.on_nan=skip", "training.checkpoint_every=1", "training.keep=9"
    )
    before, after = (read_checkpoint(folder / "checkpoints" / f"step-0000000{n}") for n in (4, 5))
    for part in ("model", "average", "optimizer.learner"):
        for name, tensor in before[0][part].items():
            assert torch.equal(tensor, after[0][part][name]), f"{part}.{name}"
    assert before[1]["players"]["average"] == after[1]["players"]["average"] == {"count": 4}
    skipped = [record["step"] for record in read_journal(folder / "metrics.jsonl") if record.get("skipped")]
    assert skipped == [5]
    assert finite(folder)


def test_steps_are_not_skipped_for_ever(pixels, train, tmp_path, monkeypatch):
    monkeypatch.setattr("mutoscope.core.training.turns.SKIPPED", 3)
    arm("step.loss@3+:nan")
    with pytest.raises(WorkError, match=r"step 5: .*not finite, as in the 3 steps before; first in the loss"):
        train(pixels, tmp_path / "run", "training.on_nan=skip")


def test_rollback_goes_on_after_the_bad_step(pixels, train, made_in, tmp_path):
    """Step 4 is bad: the checkpoint of step 3 goes on at step 5, bit for bit as if it had been written there."""
    arm("step.gradient@5:nan")
    folder = train(pixels, tmp_path / "a" / "run", "training.on_nan=rollback", "training.keep=9")
    arm("")
    parts, state = read_checkpoint(folder / "checkpoints" / "step-00000003")
    moved = tmp_path / "b" / "run"
    write_checkpoint(moved / "checkpoints", 5, parts, {**state, "step": 5})
    train(pixels, moved, "training.on_nan=rollback", "training.keep=9")
    rolled, expected = made_in(folder), made_in(moved)
    assert rolled["tensors"] == expected["tensors"]
    sixth = read_checkpoint(folder / "checkpoints" / "step-00000006")
    assert sixth[1]["players"]["average"] == {"count": 4}
    assert [record["step"] for record in read_journal(folder / "metrics.jsonl")] == [1, 2, 3, 4, 6, 7, 8]
    assert finite(folder)


def test_rollback_needs_a_checkpoint_and_has_an_end(pixels, train, tmp_path, monkeypatch):
    arm("step.loss@2:nan")
    with pytest.raises(WorkError, match=r"step 1: .*no checkpoint yet to roll back to"):
        train(pixels, tmp_path / "a" / "run", "training.on_nan=rollback")
    monkeypatch.setattr("mutoscope.core.training.run.ROLLBACKS", 2)
    arm("step.loss@5+:nan")
    with pytest.raises(WorkError, match=r"step 6: .*rolled back 2 times before"):
        train(pixels, tmp_path / "b" / "run", "training.on_nan=rollback", "training.checkpoint_every=1")


def test_stopped_after_a_rollback_it_resumes_to_the_same_bits(pixels, train, made_in, tmp_path, monkeypatch):
    """What was not finite is so again, since a step is a function of its number; here the failpoint sees to that."""
    arm("step.gradient@5:nan")
    expected = made_in(train(pixels, tmp_path / "a" / "run", "training.on_nan=rollback"))

    def append(self: Journal, record: dict) -> None:
        if record["step"] == 6:
            raise OSError("the disk is gone")
        original(self, record)

    original = Journal.append
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", append)
        arm("step.gradient@5:nan")
        with pytest.raises(OSError, match="the disk is gone"):
            train(pixels, tmp_path / "b" / "run", "training.on_nan=rollback")
    arm("step.gradient@2:nan")  # from the checkpoint of step 3 on, the fifth step is the second
    assert made_in(train(pixels, tmp_path / "b" / "run", "training.on_nan=rollback")) == expected
