"""Thousands of steps: memory, open files and the log stay where they are."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from mutoscope.core.storage.checkpoint import listed
from mutoscope.core.storage.journal import read_journal
from mutoscope.core.training.turns import Turns

STEPS = 5000
WARM = 1000
"""Steps after which caches and allocators are full."""


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_five_thousand_steps(pixels, train, trials, tmp_path, monkeypatch):
    """With a checkpoint every hundred steps, logging every ten, data loaded in a thread and none of it cached."""
    seen: list[tuple[int, int, int]] = []
    original = Turns.step

    def step(self: Turns, number: int, micros: list) -> dict:
        if number % 100 == 99:
            gc.collect()
            seen.append((number + 1, resident(), len(os.listdir("/proc/self/fd"))))
        return original(self, number, micros)

    monkeypatch.setattr(Turns, "step", step)
    folder: Path = train(
        pixels, tmp_path / "run", f"training.steps={STEPS}", "training.checkpoint_every=100", "training.log_every=10",
        "training.cache=0", "training.warmup=10",
    )  # fmt: skip
    with trials("soak of 5,000 steps", least=3) as tally:
        (_, before, files), (_, after, files_after) = next(s for s in seen if s[0] >= WARM), seen[-1]
        grown = after / before - 1
        tally.tried("" if grown < 0.02 else f"memory has grown by {grown:.1%}")
        tally.tried("" if files == files_after else f"{files} open files have become {files_after}")
        records, size = read_journal(folder / "metrics.jsonl"), (folder / "metrics.jsonl").stat().st_size
        bounded = len(records) == STEPS // 10 + 1 and size < 400 * len(records)
        tally.tried("" if bounded else f"{len(records)} records in {size:,} bytes")
        print({"memory": f"{before:,} to {after:,} ({grown:+.2%})", "files": files_after, "log": size})
    assert len(listed(folder / "checkpoints")) == 2
