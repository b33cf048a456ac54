"""The parts of token models."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.autoregressive.gpt import Gpt
    from mutoscope.plugins.autoregressive.masked_token import MaskedToken
    from mutoscope.plugins.autoregressive.maskgit import Maskgit
    from mutoscope.plugins.autoregressive.next_token import NextToken
    from mutoscope.plugins.autoregressive.raster import Raster

    return [Gpt, NextToken, MaskedToken, Raster, Maskgit]
