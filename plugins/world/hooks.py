"""The embedded world: its dataset, the metrics that read it, and a tower that has learned to see it."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.world.dataset import Shapes
    from mutoscope.plugins.world.metrics.action import Action
    from mutoscope.plugins.world.metrics.caption import Caption
    from mutoscope.plugins.world.metrics.flicker import Flicker
    from mutoscope.plugins.world.metrics.framing import Framing
    from mutoscope.plugins.world.metrics.identity import Identity
    from mutoscope.plugins.world.metrics.motion import Motion
    from mutoscope.plugins.world.metrics.permanence import Permanence
    from mutoscope.plugins.world.metrics.quadruplets import Quadruplets
    from mutoscope.plugins.world.metrics.validity import Validity
    from mutoscope.plugins.world.mutonet import Mutonet
    from mutoscope.plugins.world.perceive import Perceive

    reading = [Caption, Motion, Permanence, Identity, Framing, Flicker, Validity, Action, Quadruplets]
    return [Shapes, Mutonet, Perceive, *reading]
