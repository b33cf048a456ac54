"""Towers: networks that look at video."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.towers.clip import ClipTower
    from mutoscope.plugins.towers.contrastive import Contrastive
    from mutoscope.plugins.towers.image_tower import ImageTower
    from mutoscope.plugins.towers.lpips import Lpips

    return [ImageTower, Lpips, ClipTower, Contrastive]
