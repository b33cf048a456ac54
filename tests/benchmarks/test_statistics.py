"""Intervals and verdicts, against scipy, closed forms and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mutoscope.benchmarks import statistics
from mutoscope.benchmarks.statistics import Difference

RNG = np.random.Generator(np.random.Philox(key=7))


def runs(seeds: int, clips: int, between: float = 0.1, within: float = 0.4, mean: float = 0.5) -> list[np.ndarray]:
    return [mean + between * RNG.normal() + within * RNG.normal(size=clips) for _ in range(seeds)]


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (50, 50), (977, 1000), (1, 2)])
def test_wilson_is_scipys(k: int, n: int):
    there = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert statistics.wilson(k, n) == pytest.approx((there.low, there.high), abs=1e-12)


def test_wilson_covers():
    """Its exact coverage, summed over the binomial distribution, never falls far below 95%."""
    n = 200
    for share in (0.05, 0.3, 0.5, 0.9, 0.98):
        inside = [low <= share <= high for low, high in (statistics.wilson(k, n) for k in range(n + 1))]
        assert stats.binom.pmf(np.arange(n + 1), n, share)[inside].sum() > 0.93


def test_student_is_scipys():
    means = RNG.normal(size=6)
    there = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert statistics.student(means) == pytest.approx((there.low, there.high), rel=1e-12)


def test_paired_difference_is_scipys():
    a, b = runs(5, 40), runs(5, 40, mean=0.7)
    there = stats.ttest_rel([x.mean() for x in b], [x.mean() for x in a])
    told = statistics.difference(a, b)
    assert told.p == pytest.approx(there.pvalue, rel=1e-10)
    assert (told.low, told.high) == pytest.approx(tuple(there.confidence_interval(0.95)), rel=1e-10)
    assert told.difference == pytest.approx(np.mean(b) - np.mean(a))
    assert told.basis == "paired t over seeds"


def test_bootstrap_over_clips_is_the_normal_interval():
    clips = RNG.gamma(2.0, size=400)
    low, high = statistics.bootstrap([clips])
    half = 1.959964 * clips.std() / np.sqrt(len(clips))
    assert low == pytest.approx(clips.mean() - half, abs=0.08 * half)
    assert high == pytest.approx(clips.mean() + half, abs=0.08 * half)
    there = stats.bootstrap((clips,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0))
    assert (low, high) == pytest.approx(tuple(there.confidence_interval), abs=0.08 * half)


def test_bootstrap_over_seeds_and_clips_has_both_variances():
    """Var of the resampled mean = between / S + mean within / (S n), both without Bessel's correction."""
    told = runs(12, 50)
    means = np.array([r.mean() for r in told])
    variance = means.var() / 12 + np.mean([r.var() for r in told]) / (12 * 50)
    low, high = statistics.bootstrap(told)
    assert high - low == pytest.approx(2 * 1.959964 * np.sqrt(variance), rel=0.05)


def test_bootstrap_repeats():
    told = runs(4, 20)
    assert statistics.bootstrap(told) == statistics.bootstrap(told)
    assert statistics.bootstrap(told, seed=1) != statistics.bootstrap(told)


def test_pairing_removes_what_arms_share():
    """Ten seeds: a common offset of each seed and clip leaves the interval of the difference alone."""
    gap = [0.1 + 0.02 * RNG.normal(size=30) for _ in range(10)]
    common = runs(10, 30, between=5.0, within=3.0)
    told = statistics.difference(common, [c + g for c, g in zip(common, gap, strict=True)])
    assert told.basis == "paired bootstrap over seeds and clips"
    assert told.low == pytest.approx(0.1, abs=0.02)
    assert told.high == pytest.approx(0.1, abs=0.02)
    assert told.low < 0.1 < told.high


def test_few_seeds_need_students_interval(monkeypatch: pytest.MonkeyPatch):
    """Why the headline is Student's below ten seeds: where seeds differ more than
    clips, three of them leave the bootstrap too narrow."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    trials, covered = 300, {"t": 0, "bootstrap": 0}
    for trial in range(trials):
        told = runs(3, 20, mean=0.0, within=0.05)
        cell = statistics.cell(told)
        covered["t"] += cell.low <= 0 <= cell.high
        low, high = statistics.bootstrap(told, seed=trial)
        covered["bootstrap"] += low <= 0 <= high
    assert 0.92 <= covered["t"] / trials <= 0.98
    assert covered["bootstrap"] / trials < 0.9


def test_basis_follows_the_number_of_seeds():
    assert [statistics.cell(runs(n, 10)).basis for n in (1, 2, 3, 9, 10)] == [
        "clips only", "clips only", "t over seeds", "t over seeds", "bootstrap over seeds and clips"
    ]  # fmt: skip
    assert [statistics.kind(n) for n in (1, 2, 3, 4, 5)] == [
        "demonstration", "demonstration", "exploratory", "exploratory", "study"
    ]  # fmt: skip


def test_two_seeds_do_not_double_the_clips():
    """The same clips answered by two seeds are not twice as many clips."""
    right = np.array([1.0] * 30 + [0.0] * 10)
    one, two = statistics.cell([right]), statistics.cell([right, right])
    assert (one.low, one.high) == (two.low, two.high)
    assert (one.n, two.n) == (40, 80)


def test_two_seeds_give_no_verdict():
    told = statistics.difference(runs(2, 30), runs(2, 30, mean=9.0))
    assert told.p is None
    assert told.verdict == "no verdict: 2 seeds are a demonstration"
    assert statistics.with_holm([told], [("a", "b")]) == [told]


def _tested(p: float, value: float = 1.0) -> Difference:
    return Difference(value, 0.0, 2.0, p, "", "paired t over seeds")


def test_holm_stops_at_the_first_that_fails():
    """p = 0.01, 0.04, 0.03, 0.005 at 5%: bounds 0.0125, 0.0167, 0.025; 0.03 fails, and 0.04 with it."""
    told = [_tested(p) for p in (0.01, 0.04, 0.03, 0.005)]
    judged = statistics.with_holm(told, [("a", "b")] * 4)
    assert [d.verdict for d in judged] == [
        "b is better", "not distinguishable at this budget", "not distinguishable at this budget", "b is better"
    ]  # fmt: skip


def test_verdict_knows_which_way_is_good():
    assert statistics.with_holm([_tested(0.001, -1.0)], [("a", "b")])[0].verdict == "a is better"
    assert statistics.with_holm([_tested(0.001, -1.0)], [("a", "b")], higher=False)[0].verdict == "b is better"


def test_equal_runs_are_not_told_apart():
    same = runs(4, 10)
    told = statistics.with_holm([statistics.difference(same, same)], [("a", "b")])[0]
    assert (told.difference, told.p, told.verdict) == (0.0, 1.0, "not distinguishable at this budget")


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_what_is_detectable_is_found_four_times_in_five(seeds: int):
    """By the noncentral t distribution: between 73% and 87%, the formula being a usual approximation."""
    gaps = RNG.normal(size=seeds)
    shift = statistics.detectable(gaps) / gaps.std(ddof=1) * np.sqrt(seeds)
    power = 1 - stats.nct.cdf(stats.t.ppf(0.975, seeds - 1), seeds - 1, shift)
    assert 0.73 <= power <= 0.87


def test_rounding_is_no_difference():
    """The same mean by another order of adding, and a value that its own interval holds at 0 and at 1."""
    a = [np.array([0.1, 0.2, 0.3])] * 4
    told = statistics.difference(a, [x[::-1] for x in a])
    assert (told.p, abs(told.difference) < 1e-15) == (1.0, True)
    for share in (0.0, 1.0, 1 / 3):
        for cell in (statistics.cell([np.full(7, share)] * n) for n in (1, 2, 3, 10)):
            assert cell.low <= cell.value <= cell.high


def test_across_metrics():
    a, b = RNG.normal(size=9), RNG.normal(size=7) + 0.5
    u = stats.mannwhitneyu(b, a).statistic
    assert statistics.probability_of_improvement(a, b) == pytest.approx(u / 63)
    assert statistics.interquartile_mean([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0]) == pytest.approx(3.5)


def test_no_clips_are_no_interval():
    with pytest.raises(ValueError, match="at least one clip"):
        statistics.clip_interval([])
    with pytest.raises(ValueError, match="3 against 2 seeds"):
        statistics.difference(runs(3, 5), runs(2, 5))
