"""Metrics of any data: distances between sets of clips, pixels, and what a model says of real clips."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.metrics.classified import Classified
    from mutoscope.plugins.metrics.clip_score import ClipScore
    from mutoscope.plugins.metrics.diversity import Diversity
    from mutoscope.plugins.metrics.edited import Edited
    from mutoscope.plugins.metrics.forecast import Forecast
    from mutoscope.plugins.metrics.frechet import Frechet
    from mutoscope.plugins.metrics.held_loss import HeldLoss
    from mutoscope.plugins.metrics.kernel import Kernel
    from mutoscope.plugins.metrics.pixel import Pixel
    from mutoscope.plugins.metrics.precision_recall import PrecisionRecall

    return [ClipScore, Kernel, Frechet, PrecisionRecall, Diversity, Pixel, Classified, HeldLoss, Forecast, Edited]
