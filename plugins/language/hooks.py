"""Language: what is written of clips, and what is made of prompts."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.language.blended import Blended
    from mutoscope.plugins.language.captioner import Captioner
    from mutoscope.plugins.language.expander import Expander
    from mutoscope.plugins.language.hugging_face import HuggingFace
    from mutoscope.plugins.language.scribe import Scribe
    from mutoscope.plugins.language.writing import Writing

    return [Captioner, Expander, HuggingFace, Scribe, Writing, Blended]
