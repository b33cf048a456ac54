"""The patchifiers."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.patchifiers.navit import Navit
    from mutoscope.plugins.patchifiers.spacetime import Spacetime
    from mutoscope.plugins.patchifiers.tubelet import Tubelet
    from mutoscope.plugins.patchifiers.vit import Vit

    return [Spacetime, Vit, Tubelet, Navit]
