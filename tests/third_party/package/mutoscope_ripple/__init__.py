"""Two parts for Mutoscope: the denoiser `ripple` and the sampler `adams`."""

from __future__ import annotations

from mutoscope import hookimpl
from mutoscope.core.component import Component


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope_ripple.adams import Adams
    from mutoscope_ripple.ripple import Ripple

    return [Ripple, Adams]
