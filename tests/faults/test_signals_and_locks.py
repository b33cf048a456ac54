"""A first signal stops at a safe point, a second one at once; of two processes in one folder, one works."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from mutoscope.core.errors import RunInUse, WorkError
from mutoscope.core.storage.checkpoint import newest, read_checkpoint
from mutoscope.core.storage.journal import read_journal
from mutoscope.core.storage.lock import RunLock, holder

GRACE = 180.0
"""Seconds; a stop takes well under one on a machine that has nothing else to do."""

TRAINING = (
    "atomic.before_rename", "phase.begin", "data.load@2", "data.cache", "step.begin@2", "step.forward@7", "step.end@5",
    "checkpoint.between_files@2", "checkpoint.before_rename@3", "prune.before_delete", "journal.in_line@8",
    "phase.finish@2",
)  # fmt: skip
"""Where a run of training is when the signal comes; it sleeps there, so that it is there."""


def asleep(commands, place: str, *words: object, seconds: str = "1.5") -> int:
    """A command that sleeps at a place; given when it does."""
    pid = commands.start(*words, fault=f"{place}:sleep={seconds}")
    deadline = time.monotonic() + 300
    while not (commands.places[pid] / "asleep").exists():
        assert time.monotonic() < deadline, f"{place} is never reached"
        time.sleep(0.01)
    return pid


@pytest.mark.parametrize("some", [TRAINING[::4], pytest.param(TRAINING, marks=pytest.mark.slow)], ids=["few", "all"])
def test_training_stops_at_a_safe_point(some, nano, commands, whole, made_in, trials, tmp_path):
    """Exit 75, one last line, and the same command goes on to the same bits."""
    expected = made_in(whole)
    with trials("SIGTERM and SIGINT in training", least=len(some)) as tally:
        for n, place in enumerate(some):
            folder = tmp_path / place / "run"
            folder.parent.mkdir()
            words = ("train", nano, "--out", folder, "--device", "cpu")
            pid = asleep(commands, place, *words)
            start = time.monotonic()
            commands.signal(pid, (signal.SIGTERM, signal.SIGINT)[n % 2])
            done = commands.wait(pid)
            failed = "" if done.code in (75, 0) else f"{place}: exit {done.code}: {done.stderr[-300:]}"
            if done.code == 75 and not done.lines[-1].endswith("the same command continues"):
                failed = f"{place}: {done.lines[-1]}"
            if done.code == 0 and place != "phase.finish@2":
                failed = f"{place}: the signal came too late"
            if time.monotonic() - start > GRACE:
                failed = f"{place}: {time.monotonic() - start:.0f} s"
            again = commands.run(*words)
            if again.code or made_in(folder) != expected:
                failed = failed or f"{place}: another result after it: {again.stderr[-300:]}"
            tally.tried(failed)


def test_data_that_never_comes_does_not_hold_up_a_stop(nano, commands, tmp_path):
    """The loading thread hangs; the steps before are saved."""
    folder = tmp_path / "run"
    pid = commands.start("train", nano, "--out", folder, "--device", "cpu", fault="data.load@4:sleep=3600")
    deadline = time.monotonic() + 120
    journal = folder / "metrics.jsonl"
    while time.monotonic() < deadline and not (journal.exists() and len(read_journal(journal)) == 3):
        time.sleep(0.02)
    commands.signal(pid, signal.SIGTERM)
    done = commands.wait(pid)
    assert done.code == 75, done.stderr
    assert "interrupted at step 3 of 0-autoencoder" in done.lines[-1]
    found = newest(folder / "checkpoints")
    assert found is not None
    assert read_checkpoint(found)[1]["step"] == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(number, nano, commands, tmp_path):
    pid = asleep(commands, "step.begin@3", "train", nano, "--out", tmp_path / "run", "--device", "cpu", seconds="60")
    commands.signal(pid, number)
    time.sleep(0.2)
    start = time.monotonic()
    commands.signal(pid, number)
    done = commands.wait(pid)
    assert done.code == 128 + number
    assert time.monotonic() - start < 20


def test_evaluation_and_sampling_stop_anywhere(commands, a_run, made_in, trials):
    before = made_in(a_run)
    score = ("evaluate", a_run, "--clips", "4", "--device", "cpu")
    sample = ("sample", a_run, "--prompt", "a red circle moves left slowly", "--format", "png", "--device", "cpu")
    with trials("SIGTERM and SIGINT in evaluation and sampling") as tally:
        for n, (words, place) in enumerate(
            [
                (score, "evaluate.begin"),
                (score, "evaluate.sampled"),
                (sample, "sample.begin"),
                (sample, "sample.written"),
            ]
        ):
            pid = asleep(commands, place, *words, seconds="60")
            commands.signal(pid, (signal.SIGTERM, signal.SIGINT)[n % 2])
            done = commands.wait(pid)
            right = done.code == 75 and done.lines[-1] == "mutoscope: interrupted; the same command continues"
            tally.tried("" if right and made_in(a_run) == before else f"{place}: {done.code} {done.stderr}")
    assert not list(a_run.rglob(".tmp-*"))


# Locks


@pytest.mark.parametrize(("races", "runners"), [(1, 6), pytest.param(15, 8, marks=pytest.mark.slow)])
def test_one_of_many_wins(races, runners, nano, commands, trials, tmp_path):
    """All started at once on one folder: one trains to the end, the others exit 3, name it, and change nothing."""
    with trials("processes racing for a run folder", least=races * runners) as tally:
        for race in range(races):
            folder = tmp_path / f"race-{race}" / "run"
            folder.parent.mkdir()
            words = ("train", nano, "--out", folder, "--device", "cpu")
            pids = [commands.start(*words, fault="step.begin@2:sleep=8") for _ in range(runners)]
            ended = {pid: commands.wait(pid) for pid in pids}
            winners = [pid for pid, done in ended.items() if done.code == 0]
            for pid, done in ended.items():
                if len(winners) != 1:
                    tally.tried(f"race {race}: {len(winners)} winners: {[d.stderr[-200:] for d in ended.values()]}")
                elif pid in winners:
                    tally.tried("" if len(read_journal(folder / "metrics.jsonl")) == 13 else f"race {race}: journal")
                else:
                    named = f"is in use by process {winners[0]} on {os.uname().nodename}" in done.stderr
                    right = done.code == 3 and len(done.lines) == 1 and named
                    tally.tried("" if right else f"race {race}: {done.code} {done.stderr}")


def test_whoever_comes_second_changes_nothing(commands, nano, a_run):
    """Every verb that writes into a run, and none of them a byte."""

    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in a_run.rglob("*") if p.is_file() and p.name != ".lock"}

    before = content()
    with RunLock(a_run):
        for words in (
            ("train", nano, "--out", a_run, "--device", "cpu"),
            ("evaluate", a_run, "--clips", "4", "--device", "cpu"),
            ("sample", a_run, "--prompt", "x", "--device", "cpu"),
            ("sample", a_run, "--prompt", "x", "--device", "cpu", "--out", a_run.parent / "elsewhere"),
        ):
            start = time.monotonic()
            done = commands.run(*words)
            assert done.code == 3, f"{words[0]}: {done.code} {done.stderr}"
            assert len(done.lines) == 1
            assert f"process {os.getpid()} on" in done.stderr
            assert time.monotonic() - start < GRACE
    assert content() == before
    assert not (a_run.parent / "elsewhere").exists()
    assert commands.run("evaluate", a_run, "--clips", "4", "--device", "cpu").code == 0


def test_a_lock_dies_with_its_process(commands, nano, tmp_path):
    folder = tmp_path / "run"
    pid = asleep(commands, "step.begin@2", "train", nano, "--out", folder, "--device", "cpu", seconds="60")
    assert f"process {pid}" in str(holder(folder))
    with pytest.raises(RunInUse, match=f"process {pid}"), RunLock(folder):
        pass
    commands.signal(pid, signal.SIGKILL)
    commands.wait(pid)
    assert holder(folder) is None
    with RunLock(folder):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()


def test_whoever_only_looks_takes_no_lock_away(tmp_path: Path):
    with RunLock(tmp_path):
        assert holder(tmp_path) is not None
    for _ in range(200):
        assert holder(tmp_path) is None
        with RunLock(tmp_path):
            pass


def test_a_folder_that_cannot_be_locked_is_told(tmp_path: Path):
    with pytest.raises(WorkError, match="cannot be locked"), RunLock(tmp_path / "nowhere"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="cannot be locked"), RunLock(tmp_path / "file"):
        pass
