"""Metrics of any data: distances between sets of clips, and pixels."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.metrics.frechet import Frechet
    from mutoscope.plugins.metrics.kernel import Kernel
    from mutoscope.plugins.metrics.pixel import Pixel

    return [Kernel, Frechet, Pixel]
