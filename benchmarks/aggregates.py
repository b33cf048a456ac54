"""What a study says across metrics, budgets and sizes: normalised scores, rank stability, power laws, hypotheses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import least_squares

from mutoscope.benchmarks import statistics
from mutoscope.benchmarks.reporting.words import best, worst

RESAMPLES = 2000
STARTS = ((0.2, 0.0), (0.5, 0.0), (1.0, 0.0), (0.3, 0.5), (0.8, 0.5), (0.1, 0.9))
"""Exponents and, as shares of the smallest error, floors from which a power law is fitted."""


# Across metrics


def normalised(
    rows: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], better: Mapping[str, str]
) -> dict[str, dict[str, list[float]]]:
    """Scores of every run by arm and metric, 0 at the best floor and 1 at what real clips score.

    A metric whose floor is no worse than real clips cannot be put on that scale and is left out, as is a total beside
    the parts it is of.
    """
    told: dict[str, dict[str, list[float]]] = {}
    for metric, way in better.items():
        framing = [r for r in references if r["metric"] == metric]
        floor = best([r for r in framing if r["kind"] == "floor" and r["name"] != "captions shuffled"], way)
        ceiling = worst([r for r in framing if r["name"] == "ground truth"], way)
        if floor is None or ceiling is None or metric.endswith((".all", ".floor")):
            continue
        span = ceiling["value"] - floor["value"]
        if (span if way == "higher" else -span) <= 1e-9:
            continue
        for row in rows:
            if row["metric"] == metric:
                score = (row["value"] - floor["value"]) / span
                told.setdefault(row["arm"], {}).setdefault(metric, []).append(score)
    return told


def across(scores: Mapping[str, Mapping[str, Sequence[float]]], seed: int = 0) -> dict[str, Any]:
    """Interquartile means and probabilities of improvement, with intervals by a bootstrap stratified over metrics:
    runs are resampled within each metric (Agarwal et al. 2021, sec. 4). Empty where there is nothing to aggregate."""
    arms = {arm: by for arm, by in scores.items() if by}
    metrics = [m for m in next(iter(arms.values()), {}) if all(m in by for by in arms.values())]
    if not metrics:
        return {"metrics": [], "iqm": [], "improvement": []}
    table = {arm: [np.asarray(by[m], np.float64) for m in metrics] for arm, by in arms.items()}
    rng = np.random.Generator(np.random.Philox(key=seed))
    drawn = {arm: [_resample(v, rng) for v in values] for arm, values in table.items()}
    iqm = []
    for arm, values in table.items():
        resamples = stats.trim_mean(np.concatenate(drawn[arm], axis=1), 0.25, axis=1)
        low, high = statistics.interval(resamples)
        value = statistics.interquartile_mean(np.concatenate(values))
        iqm.append({"arm": arm, "value": value, "low": min(low, value), "high": max(high, value)})
    improvement = []
    for a, b in combinations(table, 2):
        value = float(
            np.mean([statistics.probability_of_improvement(x, y) for x, y in zip(table[a], table[b], strict=True)])
        )
        each = [_improvements(x, y) for x, y in zip(drawn[a], drawn[b], strict=True)]
        low, high = statistics.interval(np.mean(each, axis=0))
        improvement.append({"a": a, "b": b, "value": value, "low": min(low, value), "high": max(high, value)})
    return {"metrics": metrics, "iqm": iqm, "improvement": improvement}


def _resample(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RESAMPLES x runs."""
    return values[rng.integers(0, len(values), (RESAMPLES, len(values)))]


def _improvements(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The chance that a run of y is better than one of x, for every resample."""
    x, y = x[:, :, None], y[:, None, :]
    return np.mean((y > x) + 0.5 * (y == x), axis=(1, 2))


# Against budget


def stability(points: Sequence[Mapping[str, Any]], better: Mapping[str, str]) -> list[dict[str, Any]]:
    """How the ranking of the arms at each share of the budget agrees with the one at its end: Kendall's tau, and which
    arm leads. points: {"arm", "seed", "share", "metric", "value"}."""
    told = []
    for metric in dict.fromkeys(p["metric"] for p in points):
        sign = 1 if better.get(metric, "higher") == "higher" else -1
        table: dict[float, dict[str, list[float]]] = {}
        for p in points:
            if p["metric"] == metric:
                table.setdefault(round(p["share"], 2), {}).setdefault(p["arm"], []).append(sign * p["value"])
        if 1.0 not in table or len(table[1.0]) < 2:
            continue
        end = {arm: float(np.mean(v)) for arm, v in table[1.0].items()}
        for share in sorted(table):
            here = {arm: float(np.mean(v)) for arm, v in table[share].items() if arm in end}
            if len(here) < 2:
                continue
            names = list(here)
            tau = stats.kendalltau([here[n] for n in names], [end[n] for n in names]).statistic
            tau = None if np.isnan(tau) else float(tau)
            told.append({"metric": metric, "share": share, "tau": tau, "leader": max(names, key=lambda n: here[n])})
    return told


# Power laws


def power_law(
    compute: Sequence[float] | np.ndarray,
    error: Sequence[float] | np.ndarray,
    starts: Sequence[tuple[float, float]] = STARTS,
) -> tuple[float, float, float]:
    """(a, b, c) of error = a compute^-b + c, compute in units of its largest, by least squares of log errors under
    Huber's loss from several starts; c is at least 0 and below the smallest error.

    Hoffmann et al. 2022, app. D.2 fit so; stopping early or one start gives other exponents (Besiroglu et al. 2024).
    """
    x, y = np.asarray(compute, np.float64), np.asarray(error, np.float64)
    if len(x) < 4 or (x <= 0).any() or (y <= 0).any():
        raise ValueError("error: a power law needs four points or more, all above zero")
    x, least = x / x.max(), float(y.min())
    log_y = np.log(y)

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.log(np.exp(p[0]) * x ** -p[1] + least * p[2]) - log_y

    fits = [
        least_squares(residuals, [np.log(least), b, c], loss="huber", f_scale=0.05,
                      bounds=([-50, 0.0, 0.0], [50, 5.0, 0.9999]), xtol=1e-10, ftol=1e-10, gtol=1e-10, max_nfev=500)
        for b, c in starts
    ]  # fmt: skip
    found = min(fits, key=lambda fit: fit.cost)
    return float(np.exp(found.x[0])), float(found.x[1]), float(least * found.x[2])


def scaling(points: Sequence[tuple[float, float]], resamples: int = 200, seed: int = 0) -> dict[str, Any]:
    """A power law over (compute, error) of runs, its exponent's interval by a bootstrap over runs, and how far the
    prediction of the largest compute lies off when it is held out."""
    compute, error = (np.array(v, np.float64) for v in zip(*points, strict=True))
    error = np.clip(error, 1e-6, None)
    a, b, c = power_law(compute, error)
    rng = np.random.Generator(np.random.Philox(key=seed))
    exponents, near = [], ((b, min(0.99, c / float(error.min()))), (0.5, 0.0))
    for _ in range(resamples):
        rows = rng.integers(0, len(compute), len(compute))
        if len(set(compute[rows])) >= 3:
            exponents.append(power_law(compute[rows], error[rows], near)[1])
    low, high = statistics.interval(np.array(exponents)) if exponents else (b, b)
    top = compute == compute.max()
    held = None
    if len(set(compute)) >= 5:
        rest = compute[~top]
        ha, hb, hc = power_law(rest, error[~top])
        predicted = ha * (compute.max() / rest.max()) ** -hb + hc
        measured = float(error[top].mean())
        held = {
            "compute": float(compute.max()),
            "predicted": float(predicted),
            "measured": measured,
            "off": float(predicted / measured - 1),
        }
    return {
        "a": a, "b": b, "c": c, "largest": float(compute.max()), "low": min(low, b), "high": max(high, b), "runs": len(compute), "held out": held,
        "decades": float(np.log10(compute.max() / compute.min())),
    }  # fmt: skip


# Hypotheses


def judged(
    hypotheses: Sequence[Mapping[str, str]],
    arms: Sequence[str],
    cells: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Every hypothesis with its verdict: supported, contradicted, not distinguishable at this budget, or why there is
    none. Between arms by the corrected paired test; against a floor by intervals that do not meet."""
    told = []
    for one in hypotheses:
        for better in [arm for arm in arms if arm != one["than"]] if one["better"] == "each" else [one["better"]]:
            said = {"metric": one["metric"], "better": better, "than": one["than"]}
            between = one["than"] in arms
            verdict = _between(said, differences) if between else _above(said, cells, references)
            if verdict is None:
                failed = any(f["arm"] in (better, one["than"]) for f in failures)
                verdict = "failed: no scores to judge by" if failed else "not judged: there is no such score"
            told.append({**said, "verdict": verdict})
    return told


def _between(said: Mapping[str, str], differences: Sequence[Mapping[str, Any]]) -> str | None:
    for d in differences:
        if d["metric"] == said["metric"] and {d["a"], d["b"]} == {said["better"], said["than"]}:
            if d["verdict"] == f"{said['better']} is better":
                return "supported"
            return "contradicted" if d["verdict"] == f"{said['than']} is better" else d["verdict"]
    return None


def _above(
    said: Mapping[str, str], cells: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> str | None:
    cell = next((c for c in cells if (c["arm"], c["metric"]) == (said["better"], said["metric"])), None)
    floors = [r for r in references if (r["name"], r["metric"]) == (said["than"], said["metric"])]
    own = [r for r in floors if r.get("arm") == said["better"]]
    floor = next(iter(own or floors), None)
    if cell is None or floor is None:
        return None
    sign = 1 if cell["better"] == "higher" else -1
    if sign * (cell["low"] if sign > 0 else cell["high"]) > sign * (floor["high"] if sign > 0 else floor["low"]):
        return "supported"
    if sign * (cell["high"] if sign > 0 else cell["low"]) < sign * (floor["low"] if sign > 0 else floor["high"]):
        return "contradicted"
    return "not distinguishable at this budget"
