"""The autoencoders, and the objective that trains them."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.autoencoders.causal_kl import CausalKl
    from mutoscope.plugins.autoencoders.fsq import Fsq
    from mutoscope.plugins.autoencoders.identity import Identity
    from mutoscope.plugins.autoencoders.lfq import Lfq
    from mutoscope.plugins.autoencoders.palette import Palette
    from mutoscope.plugins.autoencoders.reconstruction import ReconstructionObjective
    from mutoscope.plugins.autoencoders.videogpt_vq import VideogptVq
    from mutoscope.plugins.autoencoders.vqgan import Vqgan

    return [Identity, CausalKl, ReconstructionObjective, Fsq, Lfq, Palette, VideogptVq, Vqgan]
