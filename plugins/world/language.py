"""Captions from a closed grammar, and the canonical parse that reads them back."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal

import numpy as np

from mutoscope.plugins.world.state import COLOURS, DIRECTIONS, SHAPES, SPEEDS, Scene, Thing

Style = Literal["short", "descriptive", "poor"]

LAW_WORDS = {
    "bounce": "bounces off the wall",
    "fall": "falls to the floor",
    "parabola": "is thrown",
    "collide": "collides",
    "paint": "paints a stroke",
    "eat": "eats the food",
    "grid": "plays the grid game",
    "agent": "is steered",
    "orbit": "stands under a turning camera",
    "still": "stays still",
}
EVENT_WORDS = {
    "pan": "the camera pans",
    "occlude": "a bar stands in the way",
    "appear": "it appears late",
    "leave": "it leaves early",
}


def caption(scene: Scene, style: Style, rng: np.random.Generator, variants: int = 1) -> str:
    """What is said of a clip.

    short: colour, shape, motion of every object. descriptive: law, event and background as well. poor: a short caption
    in which each attribute is missing with probability 0.4, and wrong with 0.15. variants: wordings drawn from, 1 to 3.
    """
    if style == "poor":
        return " and ".join(_poor(t, rng) for t in scene.things)
    said = " and ".join(_phrase(t, scene.law, int(rng.integers(variants))) for t in scene.things)
    if style == "short":
        return said
    words = [said]
    if scene.event != "none":
        side = f" {scene.notes['camera']}" if scene.event == "pan" else ""
        words.append(EVENT_WORDS[scene.event] + side)
    if scene.background != "plain":
        words.append(f"on a {scene.background} background")
    return ", ".join([*words, f"{len(scene.things)} object{'s' if len(scene.things) > 1 else ''} in all"])


def _phrase(thing: Thing, law: str, variant: int) -> str:
    what = f"{thing.colour} {thing.shape}"
    law_words = LAW_WORDS.get(law, "")
    if thing.direction == "none":
        return f"a {what} {law_words}"
    speed = f" {thing.speed}" if thing.speed != "none" else ""
    motion = [
        f"a {what} moves {thing.direction}{speed}",
        f"a {what} is going {thing.direction}{speed}",
        f"there is a {what} that drifts {thing.direction}{speed}",
    ][variant]
    return f"{motion} and {law_words}" if law_words else motion


def _poor(thing: Thing, rng: np.random.Generator) -> str:
    def spoilt(word: str, others: tuple[str, ...]) -> str:
        roll = rng.uniform()
        if roll < 0.4:
            return ""
        return str(rng.choice([w for w in others if w != word])) if roll < 0.55 else word

    colour = spoilt(thing.colour, COLOURS)
    shape = spoilt(thing.shape, SHAPES) or "thing"
    motion = "" if thing.direction == "none" else spoilt(thing.direction, tuple(DIRECTIONS))
    return " ".join(w for w in ("a", colour, shape, f"moves {motion}" if motion else "") if w)


def parse(text: str) -> list[dict[str, str]]:
    """The attributes that a caption states, one dict per object: of colour, shape, direction, speed, law those said."""
    objects = []
    for clause in re.split(r"\band (?=a |there )|, (?=a )", text):
        words = clause.replace(",", " ").split()
        found = {
            "colour": next((w for w in words if w in COLOURS), None),
            "shape": next((w for w in words if w in SHAPES), None),
            "direction": _after_motion(words),
            "speed": next((w for w in words if w in SPEEDS), None),
            "law": next((law for law, said in LAW_WORDS.items() if said in clause), None),
        }
        kept = {k: v for k, v in found.items() if v is not None}
        if "colour" in kept or "shape" in kept:
            objects.append(kept)
    return objects


def _after_motion(words: list[str]) -> str | None:
    for before, word in pairwise(words):
        if before in ("moves", "going", "drifts") and word in DIRECTIONS:
            return word
    return None
