"""What a prompt states, and whether a longer text still states it: by words alone, whatever wrote the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

Groups = tuple[tuple[str, ...], ...]
"""Words that exclude each other, a group each."""

WORLD: Groups = (
    ("red", "green", "blue", "yellow", "magenta", "cyan"),
    ("circle", "square", "triangle"),
    ("left", "right", "up", "down"),
    ("slowly", "quickly"),
)
"""Those of the embedded world: colours, shapes, directions, speeds."""
FILLERS = frozenset(["a", "an", "the", "is", "are", "and", "there", "that", "of", "on", "in", "with", "it", "to"])
"""Words that state nothing by themselves."""


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return re.findall(r"[\w'-]+", text.lower())


def keeps(prompt: str, text: str, groups: Groups = WORLD) -> bool:
    """Whether a text keeps all that a prompt states, and says nothing against it.

    Three things are looked at. The prompt's words, fillers aside, stand in the text in their order, so that what
    belongs together stays together. Of a group that the prompt speaks of, the text has the prompt's words and no
    others, in that order: neither another colour of the same thing nor one more thing of another colour. A word of no
    group stays right before the one that followed it ("moves left").
    """
    said, written = words(prompt), words(text)
    stated = [word for word in said if word not in FILLERS]
    if not _within(stated, written):
        return False
    for group in groups:
        own = [word for word in said if word in group]
        if own and own != [word for word in written if word in group]:
            return False
    free = {word for word in stated if all(word not in group for group in groups)}
    pairs = set(pairwise(written))
    return all(pair in pairs for pair in pairwise(said) if pair[0] in free and pair[1] not in FILLERS)


def _within(wanted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether some words stand in others in their order, not necessarily side by side."""
    rest = iter(found)
    return all(word in rest for word in wanted)
