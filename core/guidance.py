"""Guidance: two predictions, with and without what was asked for, combined into one."""

from __future__ import annotations

from dataclasses import replace

import torch

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.process import LevelProcess
from mutoscope.core.values import TOLD, Conditioning, Prediction, Tokens


class Guided:
    """Classifier-free guidance around `process.predict`, for the calls of one sample.

    field = null + scale (told - null), in the network's own kind (Ho & Salimans 2022, arXiv:2207.12598, eq. 6 with
    scale = 1 + w). All kinds are affine in each other at given noisy tokens, so the kind does not matter. Scale 1 is
    the plain conditional prediction and scale 0 the null one, either with a single network call.

    interval: (low, high), the times within which guidance acts; outside, the scale is 1 (Kynkäänniemi et al. 2024,
    arXiv:2404.07724). Raises InputError when guidance is asked for and the conditioning has no null.
    """

    def __init__(
        self,
        process: LevelProcess,
        denoiser: LevelDenoiser,
        conditioning: Conditioning,
        scale: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.process, self.denoiser, self.told = process, denoiser, conditioning
        self.scale, self.interval = scale, interval
        self.null = None if scale == 1.0 else nothing_told(conditioning, scale)

    def predict(self, noisy: Tokens, time: float, previous: Prediction | None = None) -> Prediction:
        """The guided prediction for tokens that are all at one time; previous: as in `LevelProcess.predict`."""
        level = torch.full((len(noisy),), time, dtype=torch.float32, device=noisy.device)
        scale = scale_at(time, self.scale, self.interval)
        if self.null is not None and scale == 0.0:
            return self.process.predict(self.denoiser, noisy, level, self.null, previous)
        told = self.process.predict(self.denoiser, noisy, level, self.told, previous)
        if self.null is None or scale == 1.0:
            return told
        null = self.process.predict(self.denoiser, noisy, level, self.null, previous)
        return replace(told, field=torch.lerp(null.field.float(), told.field.float(), scale))


def scale_at(time: float, scale: float, interval: tuple[float, float]) -> float:
    """The guidance scale at a time: 1 outside the interval."""
    return scale if interval[0] <= time <= interval[1] else 1.0


def calls_at(time: float, scale: float, interval: tuple[float, float]) -> int:
    """Network calls of one guided prediction at a time: 1 or 2."""
    return 1 if scale_at(time, scale, interval) in (0.0, 1.0) else 2


def nothing_told(conditioning: Conditioning, scale: float) -> Conditioning:
    """The conditioning of an empty prompt for the same clips, known tokens kept. Raises InputError if there is none."""
    if conditioning.null is None:
        raise InputError(
            field="sampler.guidance",
            problem="needs a conditioner that has learned to be told nothing (conditioner.dropout above 0)",
            got=scale,
            allowed="1, which is no guidance",
        )
    null = {name: said for name in TOLD if (said := getattr(conditioning.null, name)) is not None}
    return replace(conditioning, **null, null=None)
