"""The embedded world: its dataset, and the metrics that read it."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.world.dataset import Shapes
    from mutoscope.plugins.world.metrics.caption import Caption

    return [Shapes, Caption]
