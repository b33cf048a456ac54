"""Studies that never ran: identical arms are hardly ever called different, and differences of a stated size are found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import mutoscope
from mutoscope.benchmarks import statistics
from mutoscope.benchmarks.simulation import Recorded, called_different, rate, verdicts

RECORDED = Path(mutoscope.__file__).parent / "benchmarks" / "results" / "recorded-scores.json"
"""Runs of one recipe that differ in nothing but their seed; what it was stands in the file."""
STUDIES = 2000


@pytest.fixture(scope="module")
def recorded() -> dict[str, Recorded]:
    told = json.loads(RECORDED.read_text())
    return {
        metric: Recorded(np.array([[int(letter) for letter in run] for run in runs], np.float64))
        for metric, runs in told["scores"].items()
    }


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts rest on the paired t test; only the intervals, which are not looked at here, on resampling."""
    monkeypatch.setattr(statistics, "RESAMPLES", 10)


def test_the_recorded_runs_differ_by_seed_and_clip(recorded: dict[str, Recorded]) -> None:
    assert {"caption.colour", "caption.direction"} <= set(recorded)
    for one in recorded.values():
        seeds, clips = one.scores.shape
        assert seeds >= 6
        assert clips >= 200
        assert np.isin(one.scores, (0, 1)).all()
    colour = recorded["caption.colour"].scores
    assert len({tuple(run) for run in colour}) == len(colour)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_two_identical_arms_are_called_different_in_at_most_six_percent(recorded: dict[str, Recorded], seeds: int):
    """Over 2,000 studies from recorded scores; a test at 5% that keeps its level has 5 +- 0.5%."""
    one = recorded["caption.colour"]
    assert rate(lambda rng: one.study(rng, 2, seeds), STUDIES, seed=seeds) <= 0.06


@pytest.mark.parametrize("seeds", [1, 2])
def test_under_three_seeds_never(recorded: dict[str, Recorded], seeds: int) -> None:
    """Not even where the second arm is right in every clip."""
    rng = np.random.Generator(np.random.Philox(key=0))
    for _ in range(20):
        told = verdicts(recorded["caption.colour"].shifted(rng, 1.0, seeds))
        assert not called_different(told)
        assert told[0].p is None


@pytest.mark.slow
def test_six_identical_arms_are_no_easier_told_apart_than_two(recorded: dict[str, Recorded]) -> None:
    """Fifteen pairs under Holm's correction: some pair is called different in at most 6% of the studies."""
    one = recorded["caption.direction"]
    assert rate(lambda rng: one.study(rng, 6, 5), 400, seed=1) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["caption.colour", "caption.shape", "caption.direction", "caption.speed"])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_every_metric_keeps_its_level(recorded: dict[str, Recorded], metric: str, seeds: int) -> None:
    one = recorded[metric]
    assert rate(lambda rng: one.study(rng, 2, seeds), 4 * STUDIES, seed=seeds) <= 0.06


@pytest.mark.parametrize(("seeds", "gap"), [(3, 3.0), (5, 2.0), (10, 1.2)])
def test_power_is_that_of_the_formula(seeds: int, gap: float) -> None:
    """Seeds alone differ, normally, by 1; the paired t test's power is that of the noncentral distribution."""

    def make(rng: np.random.Generator) -> list[list[np.ndarray]]:
        means = rng.normal(size=(2, seeds))
        return [[np.full(2, m) for m in means[0]], [np.full(2, m + gap) for m in means[1]]]

    t = stats.t.ppf(0.975, seeds - 1)
    shift = gap / np.sqrt(2) * np.sqrt(seeds)
    expected = 1 - stats.nct.cdf(t, seeds - 1, shift) + stats.nct.cdf(-t, seeds - 1, shift)
    assert rate(make, 500, seed=seeds) == pytest.approx(expected, abs=0.06)


def test_a_difference_of_a_stated_size_is_found(recorded: dict[str, Recorded]) -> None:
    """Four standard deviations between seeds: found by five seeds nearly always, by three about two times in three."""
    one = recorded["caption.colour"]
    gap = 4 * float(one.scores.mean(1).std(ddof=1))
    found = {n: rate(lambda rng, n=n: one.shifted(rng, gap, n), 200, seed=n) for n in (3, 5, 10)}
    assert found[3] < found[5] <= found[10]
    assert found[5] > 0.8
    assert found[10] > 0.98
