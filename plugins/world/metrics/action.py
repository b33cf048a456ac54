"""The metric `action`: does a steered thing do as it is told?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.plugins.world.drawing import REACH
from mutoscope.plugins.world.metrics.reading import asked, matched, protocol, readings
from mutoscope.plugins.world.oracle import Reading
from mutoscope.plugins.world.state import ACTIONS, Scene

PACE = 0.9
"""World units per second of a steered thing, as the law `agent` has it."""
MOVES = np.array(list(ACTIONS.values()))


@final
class Action(Metric):
    """Share of the frames in which a thing moves as its action says, inferred from where it is read.

    A frame is right where, of all actions, the one given leads from where the thing was to nearest where it is; walls
    that it would run into count. A frame in which it cannot be read is wrong. action.counterfactual: the same clips,
    from the same noise, with the actions of another clip; over the frames in which the two ask for different motion.
    It needs the model. Clips without a steered thing are left out.
    """

    name = "action"

    def score(self, material: Material) -> Iterable[Score]:
        """Raises InputError on data without steered things."""
        scenes = asked(material)
        steered = [i for i, scene in enumerate(scenes) if scene.law == "agent" and scene.actions is not None]
        if not steered:
            raise InputError(field="metrics", problem="action needs steered things: data with the law `agent`")
        given = [scenes[i].actions for i in steered]
        chosen, found = [scenes[i] for i in steered], [readings(material)[i] for i in steered]
        scores = [Score(self.name, _shares(found, chosen, given))]  # type: ignore[arg-type]
        if material.model is not None and len(steered) > 1:
            other = [given[(i + 1) % len(given)] for i in range(len(given))]
            video = self._again(material, steered, other)  # type: ignore[arg-type]
            read = readings(Material(video, material.real, material.reference, material.split))
            shares = _shares([read[i] for i in steered], chosen, other, given)  # type: ignore[arg-type]
            scores.append(Score(f"{self.name}.counterfactual", shares))
        return scores

    def _again(self, material: Material, steered: Sequence[int], other: Sequence[np.ndarray]) -> Tensor:
        """The same clips from the same noise, with other actions."""
        assert material.model is not None and material.real.actions is not None
        real, actions = material.real, material.real.actions.clone()
        actions[list(steered)] = torch.from_numpy(np.stack(other)).to(actions)
        frames, rows, columns = material.video.shape[-3:]
        request = Request(
            prompts=real.prompt,
            labels=None if real.label is None else tuple(real.label.tolist()),
            actions=tuple(map(tuple, actions.tolist())),
            count=len(real),
            frames=frames,
            size=(rows, columns),
            seed=material.seed,
            clips=tuple(range(len(real))),
        )
        return generate(material.model, request).video

    def protocol(self) -> dict[str, object]:
        return protocol(self.name)


def _shares(
    found: Sequence[Reading],
    scenes: Sequence[Scene],
    given: Sequence[np.ndarray],
    before: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """The share of right frames of every clip. before: other actions; only frames that ask for another motion count."""
    shares = []
    for i, (reading, scene) in enumerate(zip(found, scenes, strict=True)):
        track = matched(reading, scene)[0] if reading.valid else None
        if track is None:
            shares.append(0.0)
            continue
        right, counted = _followed(track.positions, scene, given[i], before[i] if before is not None else None)
        shares.append(right / counted if counted else 1.0)
    return np.array(shares)


def _followed(places: np.ndarray, scene: Scene, given: np.ndarray, before: np.ndarray | None) -> tuple[int, int]:
    """Frames that follow their action, and frames that count."""
    rows, columns = scene.size
    reach = scene.things[0].radius * REACH[scene.things[0].shape]
    low, high = reach, np.array([1.0, columns / rows]) - reach
    right = counted = 0
    for t in range(1, len(places)):
        ways = np.clip(places[t - 1] + MOVES * PACE / scene.fps, low, high)
        if (
            before is not None
            and np.isfinite(ways).all()
            and np.allclose(ways[given[t]], ways[before[t]], atol=0.5 / rows)
        ):
            continue
        counted += 1
        if np.isfinite(ways).all() and np.isfinite(places[t]).all():
            off = np.linalg.norm(ways - places[t], axis=1)
            # Ways that a wall makes one are one: half a pixel apart cannot be told.
            right += bool(off[given[t]] <= off.min() + 0.25 / rows)
    return right, counted
