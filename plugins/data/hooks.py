"""Datasets other than the embedded world."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.data.digits import Digits
    from mutoscope.plugins.data.folder import Folder
    from mutoscope.plugins.data.noise import Noise

    return [Noise, Digits, Folder]
