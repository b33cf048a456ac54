"""A run that is killed, or whose disk fails, at any place: the same command goes on to the same bits."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from mutoscope.core.storage.checkpoint import listed, newest, verify
from mutoscope.core.storage.journal import read_journal

KILLED = (
    "atomic.before_flush", "atomic.before_rename", "atomic.after_rename", "atomic.before_rename@2",
    "checkpoint.before_flush", "checkpoint.before_flush@5", "checkpoint.between_files@2", "checkpoint.between_files@6",
    "checkpoint.before_manifest", "checkpoint.before_manifest@3", "checkpoint.before_rename",
    "checkpoint.before_rename@2", "checkpoint.before_rename@4", "checkpoint.after_rename", "checkpoint.after_rename@2",
    "checkpoint.after_rename@5", "prune.before_delete", "prune.before_delete@2", "prune.in_delete", "prune.in_delete@2",
    "journal.in_line", "journal.in_line@6", "journal.in_line@13", "journal.after_line@4", "journal.after_line@9",
    "phase.begin", "phase.begin@2", "step.begin@4", "step.forward@5", "step.forward@8", "step.end@3", "step.end@5",
    "step.end@9", "step.end@13", "phase.finish", "phase.finish@2", "phase.kept", "phase.kept@2", "data.load",
    "data.load@4", "data.cache",
)  # fmt: skip
EVERY_TIME = 6
"""Of these, how many the quick test takes; the slow one takes all."""


def killed_at(place: str, nano: Path, commands, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)  # with a store of finished phases of its own
    done = commands.run("train", nano, "--out", folder, "--device", "cpu", fault=f"{place}:kill")
    assert done.code == -signal.SIGKILL, f"{place} is never reached: {done.code} {done.stderr}"


def leftovers(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob(".tmp-*")]


def go_on(nano: Path, commands, folder: Path, expected: dict, made_in) -> str:
    """What is wrong after the same command has ended well; empty where nothing is."""
    done = commands.run("train", nano, "--out", folder, "--device", "cpu")
    if done.code:
        return f"{folder}: exit {done.code}: {done.stderr}"
    if made_in(folder) != expected:
        return f"{folder}: another result"
    return f"{folder}: leaves {leftovers(folder)}" if leftovers(folder) else ""


@pytest.mark.parametrize(
    "some", [KILLED[::EVERY_TIME], pytest.param(KILLED, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_killed_at_every_point(some, nano, commands, whole, made_in, trials, tmp_path):
    expected = made_in(whole)
    with trials("kill -9 at a failpoint of a training run", least=len(some)) as tally:
        for place in some:
            folder = tmp_path / place / "run"
            killed_at(place, nano, commands, folder)
            tally.tried(go_on(nano, commands, folder, expected, made_in))


@pytest.mark.parametrize("count", [6, pytest.param(150, marks=pytest.mark.slow)])
def test_killed_at_random_times(count, nano, commands, whole, made_in, trials, tmp_path):
    """Each run is killed after random times, again and again with a chance of one half; what one kill may cost is the
    steps since a checkpoint."""
    chance, expected = random.Random(count), made_in(whole)
    with trials("kill -9 at random times", seed=count, least=count) as tally:
        start = time.monotonic()
        go_on(nano, commands, tmp_path / "timed" / "run", expected, made_in)
        usual, n = time.monotonic() - start, 0
        while tally.trials < count:
            n += 1
            folder, lost = tmp_path / f"{n}" / "run", ""
            while chance.random() < 0.7 and tally.trials < count:
                pid = commands.start("train", nano, "--out", folder, "--device", "cpu")
                time.sleep(chance.random() * usual)
                before = _furthest(folder)
                commands.signal(pid, signal.SIGKILL)
                commands.wait(pid)
                found = newest(folder / "checkpoints")
                saved = int(found.name[5:]) if found else 0
                lost = f"{before - saved} steps lost" if before - saved > 3 else ""
                tally.tried(lost)
            failed = go_on(nano, commands, folder, expected, made_in)
            if failed:
                tally.tried(failed)


def _furthest(folder: Path) -> int:
    """The last step in the journal."""
    journal = folder / "metrics.jsonl"
    return max((r["global_step"] for r in read_journal(journal)), default=0) if journal.exists() else 0


ERRORS = (
    "atomic.before_flush:enospc", "atomic.before_rename@2:eio", "checkpoint.before_flush@3:enospc",
    "checkpoint.between_files@4:eio", "checkpoint.before_manifest@3:enospc", "checkpoint.before_rename@2:enospc",
    "checkpoint.after_rename@3:eio", "prune.before_delete:eio", "prune.in_delete:eio", "journal.in_line@7:enospc",
    "journal.after_line@7:eio", "data.load@2:eio", "phase.kept:eio",
)  # fmt: skip


@pytest.mark.parametrize("some", [ERRORS[::3], pytest.param(ERRORS, marks=pytest.mark.slow)], ids=["few", "all"])
def test_a_full_or_failing_disk(some, nano, commands, whole, made_in, trials, tmp_path):
    """One line, exit 1, and the last good checkpoint loads; with room again the same command ends the same."""
    expected = made_in(whole)
    with trials("disk full or an I/O error at a failpoint", least=len(some)) as tally:
        for place in some:
            folder = tmp_path / place.replace(":", "-") / "run"
            done = commands.run("train", nano, "--out", folder, "--device", "cpu", fault=place)
            told = [line for line in done.lines if line.startswith("mutoscope: ")]
            if done.code != 1 or len(told) != 1 or "Traceback" in done.stderr:
                tally.tried(f"{place}: exit {done.code}: {done.stderr[-300:]}")
                continue
            bad = [p for p in listed(folder / "checkpoints") if not _verifies(p)]
            if [p for p in bad if p != listed(folder / "checkpoints")[0]]:
                tally.tried(f"{place}: a checkpoint that is not being deleted does not verify: {bad}")
                continue
            tally.tried(go_on(nano, commands, folder, expected, made_in))


def _verifies(path: Path) -> bool:
    try:
        verify(path)
    except Exception:
        return False
    return True


def test_a_disk_that_is_full_in_the_middle_of_a_file(nano, commands, whole, made_in, trials, tmp_path):
    """The system's own limit on a file's size, at several sizes: the error comes from within safetensors or write."""
    expected = made_in(whole)
    with trials("a file that cannot grow (RLIMIT_FSIZE)") as tally:
        for size in (500, 3000, 20000):
            folder = tmp_path / str(size) / "run"
            done = commands.run(
                "train", nano, "--out", folder, "--device", "cpu", limits={"RLIMIT_FSIZE": size},
            )  # fmt: skip
            told = [line for line in done.lines if line.startswith("mutoscope: ")]
            if done.code != 1 or len(told) != 1:
                tally.tried(f"{size}: exit {done.code}: {done.stderr[-300:]}")
            else:
                tally.tried(go_on(nano, commands, folder, expected, made_in))


def test_killed_in_evaluation_and_sampling(nano, commands, a_run, made_in, trials):
    """Nothing of the run changes; the same command again gives what it gives an untouched run."""
    before = made_in(a_run)
    score = ("evaluate", a_run, "--clips", "4", "--split", "test", "--device", "cpu", "--json")
    sample = ("sample", a_run, "--prompt", "a red circle moves left slowly", "--format", "png", "--device", "cpu")
    with trials("kill -9 inside evaluation and sampling") as tally:
        first: dict[str, str] = {}
        for words, points in (
            (score, ("evaluate.begin", "evaluate.sampled", "evaluate.scored", "atomic.before_rename")),
            (
                sample,
                ("sample.begin", "sample.made", "sample.written", "atomic.before_flush", "atomic.before_rename@2"),
            ),
        ):
            for point in points:
                killed = commands.run(*words, fault=f"{point}:kill")
                assert killed.code == -signal.SIGKILL, f"{words[0]} {point}: {killed.code} {killed.stderr}"
                again = commands.run(*words)
                said = again.stdout if words is sample else json.dumps(json.loads(again.stdout))
                failed = again.stderr if again.code else ""
                if first.setdefault(words[0], said) != said:
                    failed = f"{point}: another answer"
                if made_in(a_run) != before:
                    failed = f"{point}: the run has changed"
                tally.tried(failed)
        go_on = commands.run("train", nano, "--out", a_run, "--device", "cpu")
        assert go_on.code == 0
        assert not leftovers(a_run), "what a killed sample leaves is gone at the next start"
