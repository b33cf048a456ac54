"""The metric `caption`: does a clip show what its caption says?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from mutoscope.core.metric import Material, Metric, Score
from mutoscope.plugins.world.language import parse
from mutoscope.plugins.world.metrics.reading import asked, counted, matched, protocol, readings, right, stacked
from mutoscope.plugins.world.oracle import Reading
from mutoscope.plugins.world.state import Scene


@final
class Caption(Metric):
    """Share of clips with the colour, shape, direction, speed class and count of their caption, each and all together;
    and `appearance`, all but what moves, for models that are told a class or draw stills.

    An attribute that the caption leaves out is not asked for and counts as right. With several things, an attribute is
    right when it is so for every one of them. A clip that cannot be read counts as wrong.
    """

    name = "caption"

    def score(self, material: Material) -> Iterable[Score]:
        scenes, prompts = asked(material), material.real.prompt or ()
        rows = [_row(r, s, p) for r, s, p in zip(readings(material), scenes, prompts, strict=True)]
        return [Score(name, clips) for name, clips in stacked(rows, self.name).items()]

    def protocol(self) -> dict[str, object]:
        return protocol(self.name)


def _row(reading: Reading, scene: Scene, prompt: str) -> dict[str, float]:
    said = parse(prompt)
    marks = [right(track, thing, scene) for track, thing in zip(matched(reading, scene), scene.things, strict=True)]
    row = {}
    for name in ("colour", "shape", "direction", "speed"):
        wanted = [mark[name] for mark, words in zip(marks, said, strict=False) if name in words]
        row[name] = float(all(wanted)) if reading.valid else 0.0
    row["count"] = float(reading.valid and len(counted(reading, scene)) == len(scene.things))
    seen = (row["colour"], row["shape"], row["count"])
    return {"all": float(all(row.values())), "appearance": float(all(seen)), **row}
