"""Cached decoding against uncached, both in one run."""

from __future__ import annotations

import pytest

from mutoscope.benchmarks.speed.cached_decoding import measured


@pytest.mark.slow
def test_a_cache_is_at_least_eight_times_faster_at_a_thousand_ids() -> None:
    told = measured()
    assert told["tokens"] == 1024
    assert told["ratio"] >= 8
    assert told["late_over_early"] < 2.5, "an id costs more the later it comes"
    assert told["largest_difference"] < 1e-4
