"""Intervals, differences and verdicts. Every function is pure; resampling draws from a generator seeded by argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

LEVEL = 0.95
POWER = 0.8
"""The chance with which a difference is found that is called detectable."""
RESAMPLES = 10_000
FEW = 3
"""Seeds below which a study is a demonstration: no verdict between arms."""
EXPLORATORY = 5
"""Seeds below which a study is called exploratory."""
MANY = 10
"""Seeds from which the headline interval is the bootstrap over seeds and clips."""


@dataclass(frozen=True)
class Cell:
    """A value with its interval. n: clips. seeds: runs. basis: what the interval is over, in words."""

    value: float
    low: float
    high: float
    n: int
    seeds: int
    basis: str


@dataclass(frozen=True)
class Difference:
    """b - a, with its interval, two-sided p value and verdict in words; p is None where there are too few seeds.

    detectable: the difference that so many seeds, differing as these do, would find four times in five.
    """

    difference: float
    low: float
    high: float
    p: float | None
    verdict: str
    basis: str
    detectable: float | None = None


def kind(seeds: int) -> str:
    """What a study of so many seeds may be called."""
    return "demonstration" if seeds < FEW else "exploratory" if seeds < EXPLORATORY else "study"


def clip_interval(clips: Sequence[float] | np.ndarray, seed: int = 0) -> Cell:
    """The mean over clips with its 95% interval: Wilson's for shares, else a percentile bootstrap."""
    values = np.asarray(clips, dtype=np.float64)
    if values.size == 0:
        raise ValueError("an interval needs at least one clip")
    mean = float(values.mean())
    if np.isin(values, (0.0, 1.0)).all():
        low, high = wilson(float(values.sum()), len(values))
    else:
        low, high = bootstrap([values], seed)
    return Cell(mean, min(low, mean), max(high, mean), len(values), 1, "clips only")


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    p, shrink = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z / shrink * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 0.0 if successes == 0 else float(centre - half), 1.0 if successes == n else float(centre + half)


def bootstrap(runs: Sequence[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean, resampling runs, then clips within each run."""
    return interval(_resampled([np.asarray(r, np.float64)[None] for r in runs], seed)[:, 0])


def cell(runs: Sequence[np.ndarray], seed: int = 0) -> Cell:
    """One arm's value over seeds. runs: the clips of each seed.

    With one or two seeds the interval is over clips alone, at these seeds: a clip that several seeds answered is one
    clip. Below ten seeds it is Student's over the seeds' means, because a bootstrap over so few under-covers; from ten
    on it is the bootstrap over seeds and clips.
    """
    n, seeds = sum(len(r) for r in runs), len(runs)
    means = np.array([np.mean(r) for r in runs], dtype=np.float64)
    value = float(means.mean())
    if seeds < FEW:
        (low, high), basis = _over_clips(runs, seed), "clips only"
    elif seeds < MANY:
        (low, high), basis = student(means), "t over seeds"
    else:
        (low, high), basis = bootstrap(runs, seed), "bootstrap over seeds and clips"
    # A resampled sum may round past the mean it is of.
    return Cell(value, min(low, value), max(high, value), n, seeds, basis)


def _over_clips(runs: Sequence[np.ndarray], seed: int) -> tuple[float, float]:
    """Interval over clips of the mean over given seeds. Wilson's for shares, of as many clips as one seed has."""
    each = np.stack([np.asarray(r, np.float64) for r in runs])
    if np.isin(each, (0.0, 1.0)).all():
        return wilson(float(each.mean() * each.shape[1]), each.shape[1])
    return bootstrap([each.mean(0)], seed)


def student(means: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Student's interval of a mean."""
    means = np.asarray(means, np.float64)
    half = stats.t.ppf(0.5 + LEVEL / 2, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean() - half), float(means.mean() + half)


def difference(a: Sequence[np.ndarray], b: Sequence[np.ndarray], seed: int = 0) -> Difference:
    """b - a, paired by seed and by clip. The verdict is filled in by `with_holm`, once all comparisons are known."""
    if len(a) != len(b):
        raise ValueError(f"paired runs: {len(a)} against {len(b)} seeds")
    gaps = np.array([np.mean(y) - np.mean(x) for x, y in zip(a, b, strict=True)])
    value = float(gaps.mean())
    if len(gaps) < FEW:
        each = [np.asarray(y, np.float64) - np.asarray(x, np.float64) for x, y in zip(a, b, strict=True)]
        low, high = bootstrap([np.stack(each).mean(0)], seed)
        said = "one seed is" if len(gaps) == 1 else f"{len(gaps)} seeds are"
        return Difference(value, low, high, None, f"no verdict: {said} a demonstration", "clips only")
    # Gaps that are alike but for rounding have no variance to test by.
    grain = 1e-12 * max(1.0, float(np.abs(gaps).max()))
    test = stats.ttest_1samp(gaps, 0.0) if np.ptp(gaps) > grain else None
    p = float(test.pvalue) if test is not None else float(abs(value) <= grain)
    if len(gaps) < MANY:
        low, high = student(gaps)
        return Difference(value, low, high, p, "", "paired t over seeds", detectable(gaps))
    draws = _resampled(
        [np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)]) for x, y in zip(a, b, strict=True)], seed
    )
    low, high = interval(draws[:, 1] - draws[:, 0])
    return Difference(value, low, high, p, "", "paired bootstrap over seeds and clips", detectable(gaps))


def detectable(gaps: np.ndarray) -> float:
    """The smallest difference that a paired t test over so many seeds finds with a chance of 80%."""
    free = len(gaps) - 1
    return float(
        (stats.t.ppf(0.5 + LEVEL / 2, free) + stats.t.ppf(POWER, free)) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    )


def with_holm(
    differences: Sequence[Difference], names: Sequence[tuple[str, str]], higher: bool = True
) -> list[Difference]:
    """Verdicts in words after Holm's correction over the comparisons of one metric (Holm 1979).

    names: (a, b) of each. higher: whether a larger value is better.
    """
    tested = [(d.p, i) for i, d in enumerate(differences) if d.p is not None]
    passed: set[int] = set()
    for rank, (p, i) in enumerate(sorted(tested)):
        if p > (1 - LEVEL) / (len(tested) - rank):
            break
        passed.add(i)
    judged = []
    for i, (d, (a, b)) in enumerate(zip(differences, names, strict=True)):
        if d.p is None:
            judged.append(d)
            continue
        better = b if (d.difference > 0) == higher else a
        words = f"{better} is better" if i in passed else "not distinguishable at this budget"
        judged.append(replace(d, verdict=words))
    return judged


def interquartile_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half (Agarwal et al. 2021)."""
    return float(stats.trim_mean(np.asarray(values, np.float64), 0.25))


def probability_of_improvement(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Chance that a run of b is better than a run of a, ties counting half (Agarwal et al. 2021)."""
    x, y = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    return float(np.mean((y > x) + 0.5 * (y == x)))


def _resampled(runs: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Means of resampled runs: RESAMPLES x arms. runs: arms x clips of each seed; the same clips for all arms."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    which = rng.integers(0, len(runs), (RESAMPLES, len(runs)))
    total = np.zeros((RESAMPLES, runs[0].shape[0]))
    for i, run in enumerate(runs):
        clips = run.shape[1]
        times = (which == i).sum(1)
        for repeat in range(int(times.max(initial=0))):
            rows = np.flatnonzero(times > repeat)
            # Counts of each clip in a resample; a product with them is the resampled sum.
            counts = rng.multinomial(clips, np.full(clips, 1 / clips), size=len(rows))
            total[rows] += counts @ run.T / clips
    return total / len(runs)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Percentiles of resampled values."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
