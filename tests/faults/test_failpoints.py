"""Failpoints: every one is reached by what it is in, none costs anything unused, and a wrong name is told."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
import torch

import mutoscope
from mutoscope.benchmarks.sampling import Asked, write_samples
from mutoscope.benchmarks.scoring import score_run
from mutoscope.core.storage import failpoints
from mutoscope.core.storage.failpoints import POINTS, VALUES, arm, counted, reach, spoiled
from mutoscope.core.training.progress import Silence

ROOT = Path(mutoscope.__file__).parent


def test_every_point_is_reached(nano, train, tmp_path):
    """By one run, which is scored and sampled. A point that nothing reaches tests nothing."""
    with counted() as reached:
        train(nano, tmp_path / "run", "training.phases.1.cache=0", "training.phases.1.steps=9")
        score_run(tmp_path / "run", "test", 4, [], "cpu", Silence())
        write_samples(tmp_path / "run", Asked(("a red circle",)), "png", None, None, [], "cpu", Silence())
    assert {point for point in POINTS + VALUES if not reached[point]} == set()
    assert set(reached) == set(POINTS + VALUES)


def test_every_named_place_is_in_the_list():
    """What the source reaches is what the list names, each point in one place."""
    found = []
    for file in ROOT.rglob("*.py"):
        if any(part in ("tests", "build") or part.startswith(".") for part in file.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("reach", "spoiled"):
                assert isinstance(node.args[0], ast.Constant), file
                found.append(node.args[0].value)
    assert sorted(found) == sorted(POINTS + VALUES)


def test_unused_they_cost_nothing():
    """A microsecond a point at most, of steps that take milliseconds at least; processor time, the best of tries."""
    values = torch.zeros(3)
    best = min(_seconds(100_000, values) for _ in range(5))
    assert best / 200_000 < 1e-6
    assert spoiled("step.loss", values) is values


def _seconds(times: int, values: torch.Tensor) -> float:
    start = time.process_time()
    for _ in range(times):
        reach("step.begin")
        spoiled("step.loss", values)
    return time.process_time() - start


def test_a_fault_strikes_when_it_is_due():
    arm("step.begin@2:raise")
    reach("step.begin")
    reach("step.end")
    with pytest.raises(RuntimeError, match=r"fault at step\.begin"):
        reach("step.begin")
    reach("step.begin")
    arm("step.begin@2+:eio")
    reach("step.begin")
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output error"):
            reach("step.begin")
    arm("step.end:sleep=0.05")
    start = time.monotonic()
    reach("step.end")
    assert time.monotonic() - start >= 0.05
    arm("step.loss@2:nan")
    values = torch.zeros(2, 2)
    assert not spoiled("step.loss", values).isnan().any()
    assert spoiled("step.loss", values).isnan().sum() == 1
    assert not values.isnan().any()


@pytest.mark.parametrize("said", ["nowhere:kill", "step.begin", "step.begin:explode", "step.begin@0:kill", "@:", "x y"])
def test_a_wrong_fault_is_told(said):
    with pytest.raises(ValueError, match=r"MUTOSCOPE_FAULT=.*points are atomic\.before_flush.*faults are kill"):
        arm(said)
    assert failpoints._armed is None
