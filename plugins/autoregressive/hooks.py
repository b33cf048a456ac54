"""The parts of token models."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.autoregressive.dalle import Dalle
    from mutoscope.plugins.autoregressive.gpt import Gpt
    from mutoscope.plugins.autoregressive.igpt import Igpt
    from mutoscope.plugins.autoregressive.masked_token import MaskedToken
    from mutoscope.plugins.autoregressive.maskgit import Maskgit
    from mutoscope.plugins.autoregressive.next_token import NextToken
    from mutoscope.plugins.autoregressive.nuwa import Nuwa
    from mutoscope.plugins.autoregressive.parti import Parti
    from mutoscope.plugins.autoregressive.raster import Raster
    from mutoscope.plugins.autoregressive.reranked import Reranked
    from mutoscope.plugins.autoregressive.transformer import Transformer
    from mutoscope.plugins.autoregressive.videogpt import Videogpt
    from mutoscope.plugins.autoregressive.words import Words

    denoisers = [Gpt, Igpt, Videogpt, Dalle, Nuwa, Parti, Transformer]
    return [*denoisers, Words, NextToken, MaskedToken, Raster, Maskgit, Reranked]
