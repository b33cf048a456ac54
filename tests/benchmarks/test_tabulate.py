"""From runs to cells, differences and settings, on runs whose numbers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mutoscope.benchmarks import tabulate
from mutoscope.core.errors import InputError

RNG = np.random.Generator(np.random.Philox(key=3))


def run(arm: str, seed: int, clips: np.ndarray, distance: float = 0.0, fingerprint: str = "f") -> dict[str, Any]:
    """A run with a score per clip, `caption.all`, and a distance between sets, `kernel`, where lower is better."""
    rows = [
        {"metric": "caption.all", "split": "test", "value": float(clips.mean()), "low": 0.0, "high": 1.0,
         "n": len(clips), "reliable": True, "fingerprint": fingerprint},
        {"metric": "kernel", "split": "test", "value": distance, "low": distance - 1, "high": distance + 1,
         "n": len(clips), "reliable": False, "fingerprint": fingerprint},
    ]  # fmt: skip
    better = {"caption.all": "higher", "kernel": "lower"}
    return {"arm": arm, "seed": seed, "rows": rows, "clips": {"caption.all": clips.tolist()}, "better": better}


def study(seeds: int, clips: int = 50) -> list[dict[str, Any]]:
    """Arm b is right more often and lies nearer; arm c is arm a again."""
    runs = []
    for seed in range(seeds):
        a = (RNG.random(clips) < 0.4).astype(float)
        b = (RNG.random(clips) < 0.9).astype(float)
        runs += [
            run("a", seed, a, 5 + 0.1 * seed),
            run("b", seed, b, 1 + 0.12 * seed),
            run("c", seed, a, 5 + 0.1 * seed),
        ]
    return runs


def test_cells_are_over_seeds():
    runs = study(5)
    cells = {(c["arm"], c["metric"]): c for c in tabulate._cells(runs)}
    means = [r["rows"][0]["value"] for r in runs if r["arm"] == "a"]
    there = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    cell = cells["a", "caption.all"]
    assert (cell["low"], cell["high"]) == pytest.approx((there.low, there.high))
    assert (cell["n"], cell["seeds"], cell["reliable"], cell["better"]) == (250, 5, True, "higher")
    distance = cells["b", "kernel"]
    assert distance["value"] == pytest.approx(1.24)
    assert (distance["basis"], distance["reliable"], distance["better"]) == ("t over seeds", False, "lower")


def test_differences_are_of_every_pair_with_the_right_way_round():
    told = {(d["a"], d["b"], d["metric"]): d for d in tabulate._differences(study(5))}
    assert len(told) == 6
    assert told["a", "b", "caption.all"]["verdict"] == "b is better"
    assert told["a", "b", "kernel"]["verdict"] == "b is better"
    assert told["a", "b", "kernel"]["difference"] < 0
    assert told["b", "c", "caption.all"]["verdict"] == "b is better"
    assert told["a", "c", "caption.all"]["verdict"] == "not distinguishable at this budget"


def test_two_seeds_compare_clips_and_not_distances():
    told = tabulate._differences(study(2))
    assert {d["metric"] for d in told} == {"caption.all"}
    assert all(d["p"] is None for d in told)


def test_a_seed_that_failed_is_left_out_of_pairs():
    runs = [r for r in study(5) if (r["arm"], r["seed"]) != ("b", 4)]
    told = {(d["a"], d["b"]): d for d in tabulate._differences(runs) if d["metric"] == "caption.all"}
    there = [r for r in runs if r["seed"] < 4]
    means = {arm: np.mean([r["rows"][0]["value"] for r in there if r["arm"] == arm]) for arm in "ab"}
    assert told["a", "b"]["difference"] == pytest.approx(means["b"] - means["a"])


def test_two_fingerprints_do_not_share_a_table():
    rows = [row for r in (run("a", 0, np.ones(3)), run("b", 0, np.ones(3), fingerprint="g")) for row in r["rows"]]
    with pytest.raises(InputError, match=r"caption.all: scored in two ways, f .* and g .*unless told to with --mix"):
        tabulate._fingerprints(rows, mix=False)
    assert tabulate._fingerprints(rows, mix=True) == (
        dict.fromkeys(("caption.all", "kernel"), "f, g"),
        ["caption.all", "kernel"],
    )


@pytest.mark.parametrize(("seeds", "opening"), [
    (1, "A demonstration, without a verdict between arms: 1 seed, 50 clips each"),
    (2, "A demonstration, without a verdict between arms: 2 seeds, 50 clips each"),
    (3, "Exploratory: 3 seeds, 50 clips each. caption.all: b − a = +"),
    (5, "5 seeds, 50 clips each. caption.all: b − a = +"),
])  # fmt: skip
def test_the_sentence_says_what_so_many_seeds_may_say(seeds: int, opening: str):
    runs = study(seeds)
    cells, differences = tabulate._cells(runs), tabulate._differences(runs)
    said = tabulate._sentence(tabulate.statistics.kind(seeds), seeds, 50, cells, differences, [])
    assert said.startswith(opening)
    assert ("is better" in said) == (seeds >= 3)


def test_the_sentence_names_failures():
    said = tabulate._sentence("demonstration", 0, 10, [], [], [{"arm": "a", "seed": 0, "error": "x"}])
    assert said == "Nothing to compare: no run has finished. 1 run failed and is listed."


def test_settings_are_flattened_the_way_recipes_are_written():
    said = {"denoiser": "dit", "training": {"phases": [{"learn": "denoiser"}], "betas": [0.9, 0.99]}}
    assert tabulate._flat(said) == {
        "denoiser.type": "dit", "training.phases.0.learn": "denoiser", "training.betas": [0.9, 0.99]
    }  # fmt: skip


def test_the_headline_asks_for_everything():
    assert tabulate.headline(["motion.velocity", "caption.all"]) == "caption.all"
    assert tabulate.headline(["motion.velocity", "kernel"]) == "motion.velocity"
    assert tabulate.headline([]) is None
