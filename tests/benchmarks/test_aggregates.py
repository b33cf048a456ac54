"""What a study says across metrics, budgets and sizes, on numbers whose answer is known."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from scipy import stats

from mutoscope.benchmarks.aggregates import across, judged, normalised, power_law, scaling, stability
from mutoscope.benchmarks.reporting.tables import as_csv, as_latex, as_markdown

FRAMING = [
    {"metric": "caption.colour", "name": "ground truth", "kind": "ceiling", "value": 1.0, "low": 0.99, "high": 1.0},
    {"metric": "caption.colour", "name": "mean video", "kind": "floor", "value": 0.2, "low": 0.15, "high": 0.25},
    {"metric": "kernel", "name": "ground truth", "kind": "ceiling", "value": 0.0, "low": -0.1, "high": 0.1},
    {"metric": "kernel", "name": "mean video", "kind": "floor", "value": 10.0, "low": 9.0, "high": 11.0},
    {"metric": "still", "name": "ground truth", "kind": "ceiling", "value": 1.0, "low": 1.0, "high": 1.0},
    {"metric": "still", "name": "mean video", "kind": "floor", "value": 1.0, "low": 1.0, "high": 1.0},
]
BETTER = {"caption.colour": "higher", "kernel": "lower", "still": "higher", "caption.all": "higher"}


def row(arm: str, metric: str, value: float) -> dict:
    return {"arm": arm, "metric": metric, "value": value}


def test_scores_lie_between_the_best_floor_and_real_clips() -> None:
    rows = [
        row("a", "caption.colour", 0.6),
        row("a", "kernel", 5.0),
        row("a", "still", 1.0),
        row("a", "caption.all", 1.0),
    ]
    assert normalised(rows, FRAMING, BETTER) == {"a": {"caption.colour": [pytest.approx(0.5)], "kernel": [0.5]}}


def test_across_metrics_against_formulas() -> None:
    rng = np.random.default_rng(0)
    scores = {arm: {m: list(rng.normal(mean, 0.1, 5)) for m in "xyz"} for arm, mean in (("a", 0.3), ("b", 0.6))}
    told = across(scores)
    for one in told["iqm"]:
        every = np.concatenate([scores[one["arm"]][m] for m in "xyz"])
        assert one["value"] == pytest.approx(stats.trim_mean(every, 0.25))
        assert one["low"] < one["value"] < one["high"]
    (pair,) = told["improvement"]
    u = [stats.mannwhitneyu(scores["b"][m], scores["a"][m]).statistic / 25 for m in "xyz"]
    assert pair["value"] == pytest.approx(np.mean(u))
    assert across(scores) == told
    assert across({"a": {"x": [1.0]}, "b": {}})["improvement"] == []
    assert across({}) == {"metrics": [], "iqm": [], "improvement": []}


def test_resampling_is_within_each_metric() -> None:
    """Metrics far apart and runs alike: strata leave nothing to resample; over all together the interval is wide."""
    told = across({"a": {"x": [0.0] * 4, "y": [1.0] * 4}, "b": {"x": [0.0] * 4, "y": [1.0] * 4}})
    assert all(one["low"] == one["value"] == one["high"] for one in told["iqm"])
    assert (told["improvement"][0]["value"], told["improvement"][0]["low"]) == (0.5, 0.5)


def test_ranks_are_held_against_the_end() -> None:
    table = {0.25: {"a": 3, "b": 2, "c": 1}, 0.5: {"a": 2, "b": 3, "c": 1}, 1.0: {"a": 1, "b": 2, "c": 3}}
    points = [
        {"arm": arm, "seed": seed, "share": share, "metric": "kernel", "value": value + 0.01 * seed}
        for share, values in table.items() for arm, value in values.items() for seed in (0, 1)
    ]  # fmt: skip
    told = {one["share"]: one for one in stability(points, BETTER)}
    assert [told[s]["tau"] for s in (0.25, 0.5, 1.0)] == [pytest.approx(-1), pytest.approx(-1 / 3), pytest.approx(1)]
    assert [told[s]["leader"] for s in (0.25, 0.5, 1.0)] == ["c", "c", "a"]
    assert stability([p for p in points if p["arm"] == "a"], BETTER) == []


@pytest.mark.parametrize(("b", "c"), [(0.3, 0.0), (0.7, 0.05), (0.5, 0.2)])
def test_a_power_law_is_found_again(b: float, c: float) -> None:
    """Noise-free to a thousandth; with 3% of noise the interval comes within 0.02 of the exponent and the largest run is foretold."""
    compute = np.geomspace(1e11, 1e14, 8)
    x = compute / compute.max()
    found = power_law(compute, 0.1 * x**-b + c)
    assert found == (pytest.approx(0.1, rel=0.02), pytest.approx(b, abs=0.01), pytest.approx(c, abs=0.003))
    rng = np.random.default_rng(1)
    points = [(k, float((0.1 * (k / 1e14) ** -b + c) * np.exp(rng.normal(0, 0.03)))) for k in compute for _ in range(3)]
    told = scaling(points, resamples=60)
    assert told["low"] - 0.02 <= b <= told["high"] + 0.02
    assert abs(told["held out"]["off"]) < 0.15
    assert (told["runs"], told["decades"]) == (24, pytest.approx(3.0))


def test_a_law_of_three_points_is_refused() -> None:
    with pytest.raises(ValueError, match="needs four points"):
        power_law([1, 2, 3], [3, 2, 1])
    assert scaling([(1.0, 3.0), (2.0, 2.0), (4.0, 1.5), (8.0, 1.2)], resamples=3)["held out"] is None


def cell(arm: str, value: float, half: float, better: str = "higher") -> dict:
    return {"arm": arm, "metric": "caption.colour", "better": better, "value": value, "low": value - half,
            "high": value + half, "reliable": True, "basis": "t over seeds"}  # fmt: skip


def test_hypotheses_are_judged_and_misses_are_named() -> None:
    cells = [cell("a", 0.5, 0.1), cell("b", 0.26, 0.05), cell("c", 0.05, 0.02)]
    differences = [{"metric": "caption.colour", "a": "a", "b": "b", "verdict": "a is better"},
                   {"metric": "caption.colour", "a": "b", "b": "c", "verdict": "not distinguishable at this budget"}]  # fmt: skip
    asked = [{"metric": "caption.colour", "better": "each", "than": "mean video"},
             {"metric": "caption.colour", "better": "a", "than": "b"},
             {"metric": "caption.colour", "better": "b", "than": "a"},
             {"metric": "caption.colour", "better": "c", "than": "b"},
             {"metric": "caption.colour", "better": "a", "than": "d"},
             {"metric": "caption.shape", "better": "a", "than": "mean video"}]  # fmt: skip
    told = judged(asked, ["a", "b", "c", "d"], cells, differences, FRAMING, [{"arm": "d"}])
    assert [one["verdict"] for one in told] == [
        "supported", "not distinguishable at this budget", "contradicted", "failed: no scores to judge by",
        "supported", "contradicted", "not distinguishable at this budget", "failed: no scores to judge by",
        "not judged: there is no such score",
    ]  # fmt: skip


def test_an_arm_is_held_against_its_own_untrained_self() -> None:
    own = [{"metric": "caption.colour", "name": "untrained", "kind": "floor", "arm": arm, "value": v, "low": v, "high": v}
           for arm, v in (("a", 0.9), ("b", 0.1))]  # fmt: skip
    asked = [{"metric": "caption.colour", "better": "each", "than": "untrained"}]
    told = judged(asked, ["a", "b"], [cell("a", 0.5, 0.1), cell("b", 0.5, 0.1)], [], own)
    assert [one["verdict"] for one in told] == ["contradicted", "supported"]


def test_tables_for_papers_and_programs() -> None:
    rows = [{"arm": "a, b", "seed": 0, "metric": "caption.colour", "split": "test", "value": 0.5, "low": 0.4, "high": 0.6,
             "n": 8, "reliable": True, "fingerprint": "f"}]  # fmt: skip
    results = {
        "title": "One & two", "kind": "study", "arms": [{"name": "a_1"}, {"name": "b|2"}], "rows": rows,
        "cells": [cell("a_1", 0.5, 0.1), {**cell("b|2", 0.4, 0.1), "reliable": False}],
        "references": [{**rows[0], "arm": "", "name": "mean video", "kind": "floor"}], "protocol": {"clips": 8, "split": "test", "seeds": [0]},
    }  # fmt: skip
    read = list(csv.DictReader(io.StringIO(as_csv(results))))
    assert [(r["arm"], r["seed"], float(r["value"])) for r in read] == [("a, b", "0", 0.5), ("mean video", "", 0.5)]
    markdown, latex = as_markdown(results), as_latex(results)
    assert "| caption.colour ↑ | 0.500 [0.400, 0.600] | 0.400 [0.300, 0.500] † |" in markdown
    assert r"b\|2" in markdown
    assert r"Metric & a\_1 & b\textbar{}2 \\" in latex
    assert latex.count(r"\\") == 2
    assert latex.count("&") == 4 + latex.split("%")[1].count("&")


def test_the_front_is_what_no_cheaper_arm_beats() -> None:
    from mutoscope.benchmarks.reporting.figures import _front

    points = [(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (4.0, 0.9), (4.0, 0.8)]
    assert _front(points, lower=False) == [(1.0, 0.2), (2.0, 0.5), (4.0, 0.9)]
    assert _front(points, lower=True) == [(1.0, 0.2)]
