"""The conditioners."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.conditioners.actions import Actions
    from mutoscope.plugins.conditioners.clip import Clip
    from mutoscope.plugins.conditioners.enlarged import Enlarged
    from mutoscope.plugins.conditioners.first_frames import FirstFrames
    from mutoscope.plugins.conditioners.known import KnownTokens
    from mutoscope.plugins.conditioners.label import Label
    from mutoscope.plugins.conditioners.ldm_text import LdmText
    from mutoscope.plugins.conditioners.one_hot import OneHot
    from mutoscope.plugins.conditioners.text import Text

    return [Text, Clip, Label, Actions, OneHot, Enlarged, LdmText, KnownTokens, FirstFrames]
