"""The writer `my_part`: says more of a prompt, or what little it sees in a video. A start to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor

from mutoscope import hookimpl
from mutoscope.core.component import Component
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.writer import Writer

DETAILS = ("in the evening", "seen from above", "in slow motion", "against a plain wall")


@final
class MyPart(Writer):
    """A prompt gains a detail, drawn for each; a video is called bright or dark, still or moving.

    threshold: mean change of a pixel from frame to frame, of its whole range, from which a video moves.
    """

    name = "my_part"

    def __init__(self, *, threshold: Share = 0.01) -> None:
        super().__init__()
        self.threshold = threshold

    def write(self, given: Sequence[str] | Tensor, draw: Draw) -> list[str]:
        if isinstance(given, Tensor):
            return [self._caption(clip) for clip in given]
        chosen = (draw.uniform("detail") * len(DETAILS)).long().tolist()
        return [f"{prompt}, {DETAILS[i]}" for prompt, i in zip(given, chosen, strict=True)]

    def _caption(self, clip: Tensor) -> str:
        """Of C T H W."""
        light = "bright" if clip.mean() > 0 else "dark"
        change = clip.diff(dim=1).abs().mean() / 2 if clip.shape[1] > 1 else clip.new_zeros(())
        return f"a {light} video that {'moves' if change > self.threshold else 'stays'}"


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    return [MyPart]
