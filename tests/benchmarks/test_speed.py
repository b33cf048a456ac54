"""The comparisons of speed: what they compare is the same, and their interval holds the median."""

from __future__ import annotations

import numpy as np
import pytest

from mutoscope.benchmarks.speed import dit_and_diffusers, training_step
from mutoscope.benchmarks.speed.pairs import Ratio, ratio, timed_in_turn


def test_the_interval_of_order_statistics_holds_the_median() -> None:
    chance, held = np.random.default_rng(0), 0
    for _ in range(400):
        found = ratio(np.exp(chance.normal(0.1, 0.3, 31)).tolist(), [1.0] * 31)
        held += found.low <= np.exp(0.1) <= found.high
    assert held / 400 > 0.93


def test_a_bar_is_judged_by_the_lower_end_of_enough_pairs() -> None:
    assert Ratio(1.05, 1.02, 1.08, 30).within(1.03)
    assert not Ratio(1.05, 1.04, 1.08, 30).within(1.03)
    with pytest.raises(ValueError, match="at least 30"):
        Ratio(1.0, 1.0, 1.0, 29).within(1.03)


def test_both_take_turns_at_going_first() -> None:
    order: list[str] = []
    ours, theirs = timed_in_turn(lambda: order.append("a"), lambda: order.append("b"), pairs=2, warm=0)
    assert (len(ours), len(theirs), "".join(order)) == (2, 2, "baab")


def test_dit_and_diffusers_give_the_same_before_they_are_timed() -> None:
    pytest.importorskip("diffusers")
    found = dit_and_diffusers.measure("small", pairs=1)
    assert found["ratio"]["value"] > 0
    assert found["within"] is None


def test_the_loop_by_hand_learns_what_the_trainer_learns() -> None:
    found = training_step.measure("quickstart", ["denoiser.depth=1", "autoencoder.width=16"], pairs=4)
    assert found["ratio"]["pairs"] == 4
    assert found["denoiser"] == "dit"
