"""unCLIP: priors over image embeddings, a decoder of them, upsamplers."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.unclip.agreeing import Agreeing
    from mutoscope.plugins.unclip.bipartite import Bipartite
    from mutoscope.plugins.unclip.clip_codes import ClipCodes
    from mutoscope.plugins.unclip.clip_image import ClipImage
    from mutoscope.plugins.unclip.clip_text import ClipText
    from mutoscope.plugins.unclip.degraded import Degraded
    from mutoscope.plugins.unclip.image_embedding import ImageEmbedding
    from mutoscope.plugins.unclip.principal import Principal
    from mutoscope.plugins.unclip.prior import UnclipPrior
    from mutoscope.plugins.unclip.text_alone import TextAlone

    conditioners = [ClipText, ImageEmbedding, Degraded]
    return [ClipImage, ClipCodes, *conditioners, UnclipPrior, Principal, Agreeing, TextAlone, Bipartite]
