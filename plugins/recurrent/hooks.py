"""The parts of recurrent generation."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return []
