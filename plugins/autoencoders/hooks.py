"""The autoencoders, and the objective that trains them."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.autoencoders.causal_kl import CausalKl
    from mutoscope.plugins.autoencoders.identity import Identity
    from mutoscope.plugins.autoencoders.reconstruction import ReconstructionObjective

    return [Identity, CausalKl, ReconstructionObjective]
