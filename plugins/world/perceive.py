"""The objective `perceive`: a tower learns to see the states of the embedded world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mutoscope.core.errors import InputError
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.values import Example, Losses
from mutoscope.plugins.world.mutonet import READOUT, UNITS, Mutonet
from mutoscope.plugins.world.state import COLOURS, DIRECTIONS, SHAPES, Scene

PERMUTATIONS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@final
class Perceive(Objective):
    """Cross-entropy of colour, shape and direction, squared error of velocity and radius; the mean over clips.

    With several things in a clip the right answer is the share of them that has each colour, shape and direction, and
    the mean velocity and radius. A thing's directions are the shares of its way, so that every law has them.

    recolour: share of clips whose colour channels change places, which then teach all but the colour: shapes are
    learned apart from the colours that training shows them in.
    """

    name = "perceive"
    learns = "tower"
    accepts = Mutonet

    def __init__(self, *, recolour: Share = 0.5) -> None:
        super().__init__()
        self.recolour = recolour

    def loss(self, learner: Mutonet, example: Example, draw: Draw, turn: str) -> Losses:
        videos, scenes = example.batch.video, example.batch.state
        if videos is None or not scenes or not isinstance(scenes[0], Scene):
            raise InputError(field="data", problem="perceive learns from states, which only `shapes` has")
        told, targets = self._recoloured(draw), truths(scenes, draw.device)
        clips = list(videos) if isinstance(videos, tuple) else list(videos.unbind(0))
        order: dict[torch.Size, list[int]] = {}
        for i, clip in enumerate(clips):
            order.setdefault(clip.shape, []).append(i)
        logits = torch.empty(len(clips), sum(READOUT.values()), device=clips[0].device)
        said = [learner.features(torch.stack([clips[i][told[i]] for i in places])).logits for places in order.values()]
        places = torch.tensor([i for each in order.values() for i in each], device=logits.device)
        logits = logits.index_copy(0, places, torch.cat([x for x in said if x is not None]).float())
        plain = torch.tensor([t == (0, 1, 2) for t in map(tuple, told)], device=logits.device)
        losses = {}
        for name, part in zip(READOUT, logits.split(list(READOUT.values()), dim=1), strict=True):
            if name in UNITS:
                losses[name] = (part - targets[name] * UNITS[name]).square().mean()
                continue
            each = F.cross_entropy(part, targets[name], reduction="none")
            losses[name] = (each * plain).sum() / plain.sum().clamp(min=1) if name == "colour" else each.mean()
        return Losses(torch.stack(list(losses.values())).sum(), {k: v.detach() for k, v in losses.items()})

    def _recoloured(self, draw: Draw) -> list[list[int]]:
        """The order of each clip's colour channels."""
        if self.recolour == 0:
            return [[0, 1, 2]] * len(draw.clips)
        rolls = draw.uniform("recolour", 2).cpu().tolist()
        return [list(PERMUTATIONS[int(pick * 5)]) if roll < self.recolour else [0, 1, 2] for roll, pick in rolls]


def truths(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """What is to be seen: B classes of shares that sum to 1, velocity B 3 and radius B 1 in world units."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in READOUT}
    for scene in scenes:
        things = scene.things
        rows["colour"].append(np.mean([[t.colour == c for c in COLOURS] for t in things], axis=0))
        rows["shape"].append(np.mean([[t.shape == s for s in SHAPES] for t in things], axis=0))
        rows["direction"].append(np.mean([ways(t.positions) for t in things], axis=0))
        moved = [np.diff(t.positions, axis=0) * scene.fps if scene.frames > 1 else np.zeros((1, 2)) for t in things]
        speeds = [np.linalg.norm(m, axis=1).mean() for m in moved]
        rows["velocity"].append(np.array([*np.mean([m.mean(0) for m in moved], axis=0), np.mean(speeds)]))
        rows["radius"].append(np.array([np.mean([t.radius for t in things])]))
    return {k: torch.from_numpy(np.stack(v).astype(np.float32)).to(device) for k, v in rows.items()}


def ways(positions: np.ndarray) -> np.ndarray:
    """Shares of a path, T 2, that lead in each of DIRECTIONS; all in the last place, `none`, where it does not move."""
    steps = np.diff(positions, axis=0)
    along = np.array([np.clip(steps @ np.array(way), 0, None).sum() for way in DIRECTIONS.values()])
    if along.sum() < 1e-6:
        return np.eye(len(DIRECTIONS) + 1)[-1]
    return np.append(along / along.sum(), 0.0)
