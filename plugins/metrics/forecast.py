"""The metric `forecast`: how far a model that is shown how a clip begins is from how it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import numpy as np
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.settings import Count


@final
class Forecast(Metric):
    """Mean squared error of foretold frames against the real ones, pixels in [-1, 1]; actions and captions are those of
    the clip. forecast.copied is the same of the last frame shown, held still: the floor.

    frames: shown, from the first.
    """

    name = "forecast"
    wants = "model"
    better: Literal["higher", "lower"] = "lower"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *, frames: Count = 1) -> None:
        self.frames = frames

    def score(self, material: Material) -> Iterable[Score]:
        """Raises InputError where clips have no frames after those shown, or are of several sizes."""
        model, real = material.model, material.real
        if model is None:
            return []
        if not isinstance(real.video, Tensor) or real.video.shape[2] <= self.frames:
            raise InputError(
                field="metrics", problem=f"forecast shows {self.frames} frames of clips of one size, which go on longer"
            )
        shown, rest = real.video[:, :, : self.frames], real.video[:, :, self.frames :]
        request = Request(
            prompts=real.prompt,
            labels=None if real.label is None else tuple(real.label.tolist()),
            actions=None if real.actions is None else tuple(map(tuple, real.actions.tolist())),
            count=len(real),
            seed=material.seed,
            clips=tuple(range(len(real))),
        )
        made = generate(model, request.extending(shown, after=rest.shape[2])).video[:, :, self.frames :]
        return [
            Score(self.name, _error(made, rest)),
            Score(f"{self.name}.copied", _error(shown[:, :, -1:].expand_as(rest), rest)),
        ]

    def protocol(self) -> dict[str, object]:
        return {"metric": self.name, "frames": self.frames}


def _error(made: Tensor, real: Tensor) -> np.ndarray:
    """One number per clip, float64."""
    return (made.cpu().double().clamp(-1, 1) - real.double()).square().mean(dim=(1, 2, 3, 4)).numpy()
