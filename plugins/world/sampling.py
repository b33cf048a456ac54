"""Which clip an index is: a function of (world version, settings, split, index) and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product

import numpy as np

from mutoscope.core.randomness import key
from mutoscope.plugins.world.laws import EVENTS_BY_NAME, LAWS_BY_NAME, View, look, uniform, with_bar
from mutoscope.plugins.world.state import COLOURS, DIRECTIONS, PALETTE, SHAPES, VERSION, Scene, Sprite, Thing

HELD_OUT_SHAPES = frozenset({("red", "triangle"), ("blue", "square"), ("cyan", "circle")})
HELD_OUT_DIRECTIONS = frozenset({("green", "up"), ("yellow", "left")})
"""Pairs that training, validation and test never show, and `combination` always does."""
SPLITS = ("train", "validation", "test", "combination", "extrapolation", "quadruplets")
QUADRUPLETS = ("vanish", "recolour", "teleport", "swap")


@dataclass(frozen=True)
class World:
    """The settings of a world of clips; see the dataset `shapes`."""

    view: View
    laws: tuple[str, ...]
    events: tuple[str, ...]
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    directions: tuple[str, ...]
    objects: tuple[int, int]

    def generator(self, split: str, index: int) -> np.random.Generator:
        """The clip's own generator."""
        return np.random.Generator(np.random.Philox(key=key(VERSION, self.words, split, index)))

    @cached_property
    def words(self) -> str:
        """The settings as text."""
        return repr(self)

    def scene(self, split: str, index: int) -> Scene:
        """The clip of an index."""
        rng = self.generator(split, index)
        if split == "quadruplets":
            return self._quadruplet(self.generator(split, index // 4 * 4), index)
        view = self._extreme(rng) if split == "extrapolation" else self.view
        count = int(rng.integers(self.objects[0], self.objects[1] + 1))
        if split == "extrapolation" and view is self.view:
            count = self.objects[1] + 1
        law = str(rng.choice(list(self.laws)))
        count = max(count, {"collide": 2, "orbit": 3}.get(law, 1))
        scene = LAWS_BY_NAME[law](rng, view, self._looks(rng, view, count, split))
        event = str(rng.choice(list(self.events)))
        return scene if event == "none" else EVENTS_BY_NAME[event](rng, scene)

    def _looks(self, rng: np.random.Generator, view: View, count: int, split: str):
        """Objects no two of which share colour and shape, within or without the held-out pairs."""
        held = split == "combination"
        triples = self._triples(held)
        looks, taken = [], set()
        while len(looks) < count:
            colour, shape, direction = triples[int(rng.integers(len(triples)))]
            if (colour, shape) in taken and len(taken) < len({t[:2] for t in triples}):
                continue
            taken.add((colour, shape))
            looks.append(look(rng, view, colour, shape, direction))
        return looks

    @cache  # noqa: B019  a world is a few tuples and lives as long as its dataset
    def _triples(self, held: bool) -> list[tuple[str, str, str]]:
        """Colours, shapes and directions that a split shows; all of them where the settings leave none."""
        every = list(product(self.colours, self.shapes, self.directions))
        return [triple for triple in every if held_out(*triple) == held] or every

    def _extreme(self, rng: np.random.Generator) -> View:
        """One property outside the training distribution: speed, radius, or (the view unchanged) one object more."""
        match int(rng.integers(5)):
            case 0:
                return replace(self.view, faster=1.6)
            case 1:
                return replace(self.view, faster=0.4)
            case 2:
                return replace(self.view, larger=1.35)
            case 3:
                return replace(self.view, larger=0.7)
            case _:
                return self.view

    def _quadruplet(self, rng: np.random.Generator, index: int) -> Scene:
        """Two possible clips and the two that a change behind the bar makes of them; members of one set share all else.

        Members 0 and 1 are possible; 2 starts as 0 and ends as 1, 3 the other way round.
        """
        kind = QUADRUPLETS[index // 4 % 4]
        direction = str(rng.choice(["left", "right"]))
        base = look(rng, self.view, str(rng.choice(list(self.colours))), str(rng.choice(list(self.shapes))), direction)
        scene = uniform(rng, self.view, [replace(base, speed="quickly", radius=min(base.radius, 0.15))])
        one = scene.things[0]
        middle = (scene.frames - 1) / 2
        bar = float(np.interp(middle, np.arange(scene.frames), one.positions[:, 1]))
        other = self._changed(rng, one, kind)
        early = np.arange(scene.frames) <= middle
        pairs = ((one, one), (other, other), (one, other), (other, one))
        before, after = pairs[index % 4]
        shown = [(before, early), (after, ~early)]
        sprites = tuple(Sprite(t.shape, t.paint, t.radius, t.positions, t.seen & at) for t, at in shown)
        speaks_of = one if index % 4 in (0, 2) else other
        drawn = replace(scene, things=(speaks_of,), sprites=sprites, possible=index % 4 < 2, notes={"kind": kind})
        return with_bar(drawn, bar)

    def _changed(self, rng: np.random.Generator, thing: Thing, kind: str) -> Thing:
        match kind:
            case "vanish":
                return replace(thing, seen=np.zeros_like(thing.seen))
            case "recolour":
                return replace(thing, colour=str(rng.choice([c for c in PALETTE if c != thing.colour])))
            case "teleport":
                y = thing.positions[0, 0]
                jump = np.array([0.4 if y < 0.5 else -0.4, 0.0])
                return replace(thing, positions=thing.positions + jump)
            case _:
                return replace(thing, shape=str(rng.choice([s for s in SHAPES if s != thing.shape])))


def held_out(colour: str, shape: str, direction: str) -> bool:
    """Whether a clip of this object belongs to the `combination` split."""
    return (colour, shape) in HELD_OUT_SHAPES or (colour, direction) in HELD_OUT_DIRECTIONS


__all__ = ["COLOURS", "DIRECTIONS", "SPLITS", "World", "held_out"]
