"""The parts of patches: ViT, ViViT, NaViT, masked autoencoding, classification."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.patches.classify import Classify
    from mutoscope.plugins.patches.mae import Mae
    from mutoscope.plugins.patches.masked_level import MaskedLevel
    from mutoscope.plugins.patches.navit import NavitDenoiser, NavitTower
    from mutoscope.plugins.patches.vit import VitDenoiser, VitTower
    from mutoscope.plugins.patches.vivit import VivitDenoiser, VivitTower

    return [VitTower, VitDenoiser, VivitTower, VivitDenoiser, NavitTower, NavitDenoiser, Mae, MaskedLevel, Classify]
