"""The metric `frechet`: the distance of two normal distributions fitted to features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

from mutoscope.core.component import Nested
from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.tower import Tower
from mutoscope.plugins.metrics.distances import frechet_interval
from mutoscope.plugins.metrics.extraction import Sets

TRUSTED = 1024
"""Clips from which the distance is to be trusted; its bias falls with 1/n and depends on what is compared."""


@final
class Frechet(Metric):
    """Frechet distance of features as normal distributions, in float64 with covariances over n - 1; 0 is best.

    Heusel et al. 2017, eq. 6. Biased upward by about d^2 / 2n of a feature's variance, so that it is refused under
    twice as many clips as features, not reliable under 1,024, and to be read beside `frechet.floor`, the same of real
    clips against other real clips. Intervals are over clips, by jackknife over groups.

    extractor: the tower whose features are compared.
    """

    name = "frechet"
    paper = "Heusel et al. 2017, arXiv:1706.08500"
    better: Literal["higher", "lower"] = "lower"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *, extractor: Tower = Nested("mutonet")) -> None:  # type: ignore[assignment]
        self.extractor = extractor

    def score(self, material: Material) -> Iterable[Score]:
        """Raises InputError on too few clips, generated or real."""
        sets = Sets.of(material, self.extractor)
        n, m, d = len(sets.made), len(sets.base), sets.made.shape[1]
        if min(n, m) < 2 * d:
            raise InputError(
                field="metrics", problem=f"frechet is refused under {2 * d} clips on each side, twice the {d} features",
                got=[n, m],
            )  # fmt: skip
        scores = []
        for name, x, y in ((self.name, sets.made, sets.base), (f"{self.name}.floor", sets.held, sets.floor_base())):
            if len(x) < 2 * d:
                continue
            value, low, high = frechet_interval(x, y)
            scores.append(Score(name, value=value, low=low, high=high, n=len(x), reliable=len(x) >= TRUSTED))
        return scores

    def protocol(self) -> dict[str, object]:
        return {
            "metric": self.name,
            "extractor": self.extractor.fingerprint(),
            "covariance": "n - 1, float64",
        }
