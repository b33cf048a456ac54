"""Which clip an index is: a function of (world version, settings, split, index) and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product

import numpy as np

from mutoscope.core.randomness import key
from mutoscope.plugins.world.events import EVENT_DIRECTIONS, EVENT_LAWS, EVENTS_BY_NAME, bar_half, passing, with_bar
from mutoscope.plugins.world.laws import DIRECTIONS_OF, LAWS_BY_NAME, Look, View, look, uniform
from mutoscope.plugins.world.state import COLOURS, DIRECTIONS, PALETTE, SHAPES, VERSION, Scene, Sprite, Thing

HELD_OUT_SHAPES = frozenset({("red", "triangle"), ("blue", "square"), ("cyan", "circle")})
HELD_OUT_DIRECTIONS = frozenset({("green", "up"), ("yellow", "left")})
"""Pairs that training, validation and test never show, and `combination` always does."""
SPLITS = ("train", "validation", "test", "combination", "extrapolation", "quadruplets")
QUADRUPLETS = ("vanish", "recolour", "teleport", "swap")
CLEAR = {"circle": 1.0, "square": 1.1, "triangle": 1.25}
"""Distance, in radii, at which shapes of one size hardly touch."""
TRIES = 12
"""Scenes drawn at most in search of one whose things keep clear of each other."""


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
        event = str(rng.choice(list(self.events)))
        if law not in EVENT_LAWS.get(event, (law,)):
            event = "none"
        count = max(count, {"collide": 2, "orbit": 3}.get(law, 1))
        scenes = []
        for _ in range(TRIES if count > 1 and law not in ("collide", "orbit") else 1):
            scene = LAWS_BY_NAME[law](rng, view, self._looks(rng, view, count, split, law, event))
            scenes.append(scene if event == "none" else EVENTS_BY_NAME[event](rng, scene))
            if crowding(scenes[-1]) <= 0:
                break
        return min(scenes, key=crowding)

    def _looks(self, rng: np.random.Generator, view: View, count: int, split: str, law: str, event: str) -> list[Look]:
        """Objects no two of which share colour and shape, within or without the held-out pairs."""
        looks, taken = [], set()
        while len(looks) < count:
            triples = self._triples(split == "combination", law, event, len(looks))
            colour, shape, direction = triples[int(rng.integers(len(triples)))]
            if (colour, shape) in taken and len(taken) < len({t[:2] for t in triples}):
                continue
            taken.add((colour, shape))
            looks.append(look(rng, view, colour, shape, direction))
        return looks

    @cache  # noqa: B019  a world is a few tuples and lives as long as its dataset
    def _triples(self, held: bool, law: str, event: str, place: int) -> list[tuple[str, str, str]]:
        """Colours, shapes and directions that a split shows of a law's object; all where the settings leave none."""
        shapes, ways = self.shapes, DIRECTIONS_OF.get(law, self.directions)
        if law == "collide":
            shapes, ways = ("circle",), ("right",) if place == 0 else ("left",)
        ways = EVENT_DIRECTIONS.get(event, ways)
        ways = tuple(w for w in ways if w in self.directions) or ways
        every = list(product(self.colours, shapes, ways))
        return [triple for triple in every if held_out(*triple) == held] or every

    def _extreme(self, rng: np.random.Generator) -> View:
        """One property outside the training distribution: speed, radius, or (the view unchanged) one object more."""
        match int(rng.integers(5)):
            case 0:
                return replace(self.view, faster=1.6)
            case 1:
                return replace(self.view, faster=0.6)
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
        kept = self._triples(False, "uniform", "occlude", 0)
        base = look(rng, self.view, *kept[int(rng.integers(len(kept)))])
        scene = uniform(rng, self.view, [replace(base, radius=min(base.radius, 0.16))])
        one, bar = passing(rng, scene, scene.things[0])
        middle = (scene.frames - 1) / 2
        other = self._changed(rng, one, kind)
        early = np.arange(scene.frames) <= middle
        pairs = ((one, one), (other, other), (one, other), (other, one))
        before, after = pairs[index % 4]
        shown = [(before, early), (after, ~early)]
        sprites = tuple(Sprite(t.shape, t.paint, t.radius, t.positions, t.seen & at) for t, at in shown)
        speaks_of = one if index % 4 in (0, 2) else other
        drawn = replace(scene, things=(speaks_of,), sprites=sprites, possible=index % 4 < 2, notes={"kind": kind})
        return with_bar(drawn, bar, max(bar_half(t.radius, t.shape) for t in (one, other)))

    def _changed(self, rng: np.random.Generator, thing: Thing, kind: str) -> Thing:
        """What becomes of a thing behind the bar: never a pair that training does not show."""
        match kind:
            case "vanish":
                return replace(thing, seen=np.zeros_like(thing.seen))
            case "recolour":
                others = [c for c in PALETTE if c != thing.colour and not held_out(c, thing.shape, thing.direction)]
                return replace(thing, colour=str(rng.choice(others)))
            case "teleport":
                y = thing.positions[0, 0]
                jump = np.array([0.4 if y < 0.5 else -0.4, 0.0])
                return replace(thing, positions=thing.positions + jump)
            case _:
                others = [s for s in SHAPES if s != thing.shape and not held_out(thing.colour, s, thing.direction)]
                return replace(thing, shape=str(rng.choice(others)))


def crowding(scene: Scene) -> float:
    """By how much the things of a scene come too close to be told apart, in frame heights; 0 where they do not."""
    worst = 0.0
    for i, one in enumerate(scene.things):
        for other in scene.things[:i]:
            apart = np.linalg.norm(one.positions - other.positions, axis=1)
            near = 1.15 * (one.radius * CLEAR[one.shape] + other.radius * CLEAR[other.shape])
            worst = max(worst, float((near - apart).max()))
    return worst


def held_out(colour: str, shape: str, direction: str) -> bool:
    """Whether a clip of this object belongs to the `combination` split."""
    return (colour, shape) in HELD_OUT_SHAPES or (colour, direction) in HELD_OUT_DIRECTIONS


__all__ = ["COLOURS", "DIRECTIONS", "SPLITS", "World", "held_out"]
