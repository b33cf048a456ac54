"""The ladder of corruptions: what an extractor must put in order before a distance by its features is believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mutoscope.benchmarks.evaluation import Truth, quantised
from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material, Metric
from mutoscope.core.randomness import Draw

NOISE = 8 / 127.5
"""Eight grey levels of 255, which nobody sees."""
TIER = 32
"""Rows of which a blur of one pixel is meant; of fewer, less."""
ORDER = (
    ("noise", "blur"), ("blur", "more blur"), ("more blur", "mean video"), ("blur", "shuffled"), ("shuffled", "static"),
    ("static", "mean video"),
)  # fmt: skip
"""Pairs of rungs, the first nearer to real clips than the second."""
MOST = 512
"""Real clips that are looked at, half of them corrupted."""


def rungs(video: Tensor) -> dict[str, Tensor]:
    """Clips B C T H W as they are, and corrupted in ways whose order anybody would agree on."""
    b, frames, pixel = len(video), video.shape[2], video.shape[-2] / TIER
    draw = Draw(0, "ladder", 0, tuple(range(b)))
    shuffle = draw.uniform("frames", frames).argsort(1)[:, None, :, None, None]
    made = {
        "real": video,
        "noise": video + NOISE * draw.normal("noise", *video.shape[1:]),
        "blur": blurred(video, pixel),
        "more blur": blurred(video, 2 * pixel),
        "shuffled": video.gather(2, shuffle.expand_as(video)),
        "static": video[:, :, :1].expand_as(video),
        "mean video": video.mean(0, keepdim=True).expand_as(video),
    }
    return {name: quantised(clips) for name, clips in made.items()}


def blurred(video: Tensor, deviation: float) -> Tensor:
    """Every frame through a Gaussian, its edges repeated. deviation: in pixels."""
    reach = max(1, round(3 * deviation))
    at = torch.arange(-reach, reach + 1) / deviation
    weights = torch.exp(-at.square() / 2)
    weights = (weights / weights.sum()).to(video)
    b, c, t, h, w = video.shape
    flat = F.pad(video.transpose(1, 2).reshape(b * t * c, 1, h, w), (reach,) * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    return flat.view(b, t, c, h, w).transpose(1, 2)


def climb(metric: Metric, truth: Truth, split: str) -> dict[str, Any] | None:
    """How far a metric puts every rung from real clips, and what of the order it does not keep; None of a metric that
    is no distance, or cannot be taken of so few clips.

    The clips that are corrupted have no part in what they are held against.
    """
    real = truth.reference[:MOST]
    n = len(real) // 2
    found: dict[str, float] = {}
    for name, clips in rungs(real[:n]).items():
        material = Material(clips, replace(truth.real, video=real[:n]), real, split)
        try:
            score = next((s for s in metric.score(material) if s.name == metric.name), None)
        except InputError:
            return None
        if score is None or score.value is None:
            return None
        found[name] = score.value
    return {"metric": metric.name, "clips": n, "rungs": found, "problems": problems(found)}


def problems(found: Mapping[str, float]) -> list[str]:
    """What of the order does not hold, in words; empty for an extractor that is accepted."""
    floor = abs(found["real"]) + 0.02 * abs(found["static"])
    told = [] if found["noise"] < 2 * floor else ["noise that nobody sees is taken for a difference"]
    told += [
        f"{worse} is no farther from real clips than {better}"
        for better, worse in ORDER
        if found[better] >= found[worse]
    ]
    if found["shuffled"] <= 5 * floor:
        told.append("frames out of order are as near as real clips: it is blind to motion")
    return told
