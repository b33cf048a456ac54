"""The dataset `shapes`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, final

import numpy as np
import torch
from annotated_types import Ge, Le

from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import DataError, InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.randomness import key
from mutoscope.core.settings import Count, Natural, Positive, Share, Size
from mutoscope.core.values import Batch
from mutoscope.plugins.world.drawing import draw
from mutoscope.plugins.world.language import Style, caption
from mutoscope.plugins.world.laws import View
from mutoscope.plugins.world.sampling import SPLITS, World
from mutoscope.plugins.world.square import cut_scene, cut_video, side_of
from mutoscope.plugins.world.state import ACTIONS, COLOURS, DIRECTIONS, SHAPES, VERSION, Scene

Law = Literal["still", "uniform", "bounce", "fall", "parabola", "collide", "orbit", "paint", "eat", "grid", "agent"]
Event = Literal["none", "pan", "occlude", "appear", "leave"]
Colour = Literal["red", "green", "blue", "yellow", "magenta", "cyan"]
Shape = Literal["circle", "square", "triangle"]
Direction = Literal["left", "right", "up", "down"]
Background = Literal["plain", "gradient", "texture"]


@final
class Shapes(Dataset):
    """Moving shapes, drawn exactly and captioned from a closed grammar; no file and no download.

    frames, size (rows, columns), fps: of a clip; a wider size shows more of the same world. sizes: a list of
    [frames, rows, columns] to draw from instead, for packed training. cut: `square` shows of every clip its centre square
    alone, whatever is outside it, and captions say the same. laws, events: drawn from with equal chance.
    objects: fewest and most. caption: style; variants: wordings. asked: style of the captions of all splits but the
    training one, where it is another. described: share of training clips that come with a short and a descriptive
    caption besides, in `Batch.texts`. clips: length of the training split; held: of every other. keep: bytes of drawn
    clips kept in memory. Labels are colour x shape of the first object; actions are given by the laws `agent` and
    `grid`, and are zero elsewhere.
    """

    name = "shapes"
    tiny = {"frames": 5, "clips": 64, "held": 16}  # noqa: RUF012

    def __init__(
        self,
        *,
        frames: Count = 9,
        size: Size = (16, 16),
        fps: Positive = 8.0,
        sizes: tuple[tuple[Count, Count, Count], ...] = (),
        cut: Literal["none", "square"] = "none",
        laws: tuple[Law, ...] = ("uniform",),
        events: tuple[Event, ...] = ("none",),
        colours: tuple[Colour, ...] = COLOURS,  # type: ignore[assignment]
        shapes: tuple[Shape, ...] = SHAPES,  # type: ignore[assignment]
        directions: tuple[Direction, ...] = tuple(DIRECTIONS),  # type: ignore[assignment]
        objects: tuple[Annotated[int, Ge(1), Le(3)], Annotated[int, Ge(1), Le(3)]] = (1, 1),
        background: Background = "plain",
        caption: Style = "short",
        variants: Annotated[int, Ge(1), Le(3)] = 1,
        asked: Style | None = None,
        described: Share = 0.0,
        clips: Count = 12000,
        held: Count = 1000,
        keep: Natural = 1 << 30,
    ) -> None:
        for word, listed in (
            ("laws", laws),
            ("events", events),
            ("colours", colours),
            ("shapes", shapes),
            ("directions", directions),
        ):
            if not listed:
                raise ValueError(f"{word}: needs at least one")
        if objects[0] > objects[1]:
            raise ValueError("objects: the fewest are more than the most")
        shown = sizes or ((frames, *size),)
        self.views = tuple(View(t, (h, w), fps, background) for t, h, w in shown)
        self.cut = cut
        largest = max(map(self._shown, self.views), key=math.prod)
        self.worlds = tuple(
            World(view, tuple(laws), tuple(events), tuple(colours), tuple(shapes), tuple(directions), objects)
            for view in self.views
        )
        self.fps, self.style, self.variants = fps, caption, variants
        self.asked, self.described = asked or caption, described
        self.lengths = {"train": clips}
        self.held = held
        self.clip_fact = ClipFact(
            3,
            largest[0],
            largest[1:],
            mixed=len(shown) > 1,
            classes=len(COLOURS) * len(SHAPES),
            actions=len(ACTIONS),
        )
        self.keep = keep
        self._kept: dict[tuple[str, int], tuple[np.ndarray, Scene, str]] = {}
        self._bytes = 0

    def facts(self) -> Iterable[ClipFact]:
        return (self.clip_fact,)

    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def length(self, split: str) -> int:
        if split not in SPLITS:
            raise InputError(field="split", problem="shapes has no such split", got=split, allowed=SPLITS)
        return self.lengths.get(split, self.held)

    def sizes(self, split: str, indices: Sequence[int]) -> list[tuple[int, int, int]] | None:
        if len(self.worlds) == 1:
            return None
        return [self._shown(self._world(split, i).view) for i in indices]

    def _shown(self, view: View) -> tuple[int, int, int]:
        """Frames, rows and columns of a clip of a view."""
        size = (side_of(view.size),) * 2 if self.cut == "square" else view.size
        return view.frames, *size

    def batch(self, split: str, indices: Sequence[int], epoch: int = 0) -> Batch:
        """Clips by number; `epoch` changes nothing."""
        length = self.length(split)
        if not len(indices) or min(indices) < 0 or max(indices) >= length:
            raise DataError(f"shapes: the {split} split has clips 0 to {length - 1}; asked for {list(indices)[:3]}")
        clips = self._clips(split, [int(i) for i in indices])
        videos = [
            torch.from_numpy(video).permute(3, 0, 1, 2).to(torch.float32).div_(127.5).sub_(1.0) for video, _, _ in clips
        ]
        scenes = tuple(scene for _, scene, _ in clips)
        actions = None
        if len(self.worlds) == 1:
            none = np.zeros(scenes[0].frames, dtype=np.int64)
            actions = torch.from_numpy(np.stack([none if s.actions is None else s.actions for s in scenes]))
        return Batch(
            video=tuple(videos) if len(self.worlds) > 1 else torch.stack(videos),
            prompt=tuple(text for _, _, text in clips),
            label=torch.tensor([label(scene) for scene in scenes]),
            actions=actions,
            state=scenes,
            clips=tuple(int(i) for i in indices),
            texts=self._texts(split, indices, scenes) if self.described else None,
        )

    def _texts(self, split: str, indices: Sequence[int], scenes: Sequence[Scene]) -> dict[str, tuple[str, ...]]:
        """Short and descriptive captions of the clips that have them."""
        chosen = [split == "train" and self._words("described", i).uniform() < self.described for i in indices]
        return {
            style: tuple(
                caption(scene, style, self._words(f"{split} {style}", i), self.variants) if has else ""
                for i, scene, has in zip(indices, scenes, chosen, strict=True)
            )
            for style in ("short", "descriptive")
        }

    def _words(self, what: str, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=key(VERSION, "words", what, int(index))))

    def fingerprint(self) -> str:
        said = (repr(self.worlds), self.style, self.variants, self.lengths, self.held)
        more = (self.asked, self.described) if (self.asked, self.described) != (self.style, 0.0) else ()
        more += (self.cut,) if self.cut != "none" else ()
        return f"{VERSION}:{key(*said, *more):016x}"

    def _world(self, split: str, index: int) -> World:
        return self.worlds[key(VERSION, "size", split, index) % len(self.worlds)]

    def _clips(self, split: str, indices: Sequence[int]) -> list[tuple[np.ndarray, Scene, str]]:
        """Clips kept, or drawn now: those of one size together."""
        made: dict[int, tuple[np.ndarray, Scene, str]] = {}
        missing: dict[World, list[int]] = {}
        for i in dict.fromkeys(indices):
            if (split, i) in self._kept:
                made[i] = self._kept[split, i]
            else:
                missing.setdefault(self._world(split, i), []).append(i)
        for world, wanted in missing.items():
            scenes = [world.scene(split, i) for i in wanted]
            for i, scene, video in zip(wanted, scenes, draw(scenes), strict=True):
                style = self.style if split == "train" else self.asked
                words = caption(scene, style, self._words(split, i), self.variants)
                if self.cut == "square":
                    video, scene = cut_video(video), cut_scene(scene)
                made[i] = (video, scene, words)
                if self._bytes + video.nbytes <= self.keep:
                    self._kept[split, i] = made[i]
                    self._bytes += video.nbytes
        return [made[i] for i in indices]


def label(scene: Scene) -> int:
    """Colour x shape of the first object, 0 to 17."""
    first = scene.things[0]
    return COLOURS.index(first.colour) * len(SHAPES) + SHAPES.index(first.shape)
