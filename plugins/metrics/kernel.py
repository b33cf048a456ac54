"""The metric `kernel`: how far generated clips are from real ones, without bias."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, final

from annotated_types import Ge, Le

from mutoscope.core.component import Nested
from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.tower import Tower
from mutoscope.plugins.metrics.distances import kernel_distance, kernel_parts
from mutoscope.plugins.metrics.extraction import Sets, standardised


@final
class Kernel(Metric):
    """Squared maximum mean discrepancy of features under a polynomial kernel, all pairs, unbiased: near 0 is best.

    Binkowski et al. 2018, sec. 4, on features scaled by the reference's mean and deviation, without which the number
    would follow the extractor's scale. An unbiased estimate can be below 0. `kernel.floor` is the same of real clips
    against other real clips. Intervals are over clips, by jackknife.

    extractor: the tower whose features are compared. degree: of the polynomial.
    """

    name = "kernel"
    paper = "Binkowski et al. 2018, arXiv:1801.01401"
    better: Literal["higher", "lower"] = "lower"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        *,
        extractor: Tower = Nested("mutonet"),
        degree: Annotated[int, Ge(1), Le(9)] = 3,  # type: ignore[assignment]
    ) -> None:
        self.extractor, self.degree = extractor, degree

    def score(self, material: Material) -> Iterable[Score]:
        """Raises InputError on fewer than four clips or eight real ones."""
        if len(material.video) < 4 or len(material.reference) < 8:
            raise InputError(
                field="metrics", problem="kernel needs at least 4 clips and 8 real ones",
                got=[len(material.video), len(material.reference)],
            )  # fmt: skip
        sets = Sets.of(material, self.extractor)
        made, base, held, other = standardised(sets.made, sets.base, sets.held, sets.floor_base(), by=sets.base)
        scores = []
        for name, x, y in ((self.name, made, base), (f"{self.name}.floor", held, other)):
            value, low, high = kernel_distance(x, y, self.degree)
            each = kernel_parts(x, y, self.degree) if name == self.name else None
            scores.append(Score(name, value=value, low=low, high=high, n=len(x), parts=each))
        return scores

    def protocol(self) -> dict[str, object]:
        return {
            "metric": self.name,
            "extractor": self.extractor.fingerprint(),
            "kernel": f"(x.y/d + 1)^{self.degree}",
            "features": "z-scored by the reference",
            "estimate": "unbiased, all pairs, float64",
        }
