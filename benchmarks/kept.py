"""What studies keep for one another: sample sets and scores, each under the address of all that it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutoscope.benchmarks.evaluation import Protocol, Scored, as_bytes, as_row
from mutoscope.core.metric import Metric
from mutoscope.core.storage.atomic import write_json
from mutoscope.core.storage.checkpoint import newest, read_checkpoint, write_checkpoint
from mutoscope.registry.addresses import core_hash, digest, sources_hash
from mutoscope.registry.assembly import Assembled
from mutoscope.registry.runs import read_json

SAMPLES, SCORES = ".samples", ".scores"
WHOLE = ("name", "metrics", "training", "published", "plugins")
"""Keys of a recipe that samples do not depend on, beside what the phases' addresses say."""


class Kept:
    """The store beside the run folders: `.samples/ADDRESS/` and `.scores/ADDRESS.json`. Nothing is ever deleted."""

    def __init__(self, root: Path) -> None:
        self.samples, self.scores = root / SAMPLES, root / SCORES

    def video(self, address: str) -> tuple[Tensor, dict[str, Any]] | None:
        """A sample set in [-1, 1], and what was noted with it; None where there is none that verifies."""
        found = newest(self.samples / address) if (self.samples / address).is_dir() else None
        if found is None:
            return None
        parts, state = read_checkpoint(found)
        return parts["samples"]["video"].float().div_(127.5).sub_(1.0), state

    def keep_video(self, address: str, video: Tensor, state: Mapping[str, Any]) -> None:
        if not (self.samples / address).is_dir() or newest(self.samples / address) is None:
            write_checkpoint(self.samples / address, 0, {"samples": {"video": as_bytes(video)}}, state)

    def scored(self, address: str) -> list[dict[str, Any]] | None:
        """The scores of one metric: {"row", "clips", "better"} each."""
        path = self.scores / f"{address}.json"
        return read_json(path)["scored"] if path.is_file() else None

    def keep_scored(self, address: str, scored: Sequence[Scored]) -> list[dict[str, Any]]:
        told = [
            {
                "row": as_row(one),
                "clips": None if one.clips is None else np.asarray(one.clips).tolist(),
                "better": one.better,
            }
            for one in scored
        ]
        self.scores.mkdir(parents=True, exist_ok=True)
        write_json(self.scores / f"{address}.json", {"scored": told})
        return told


def samples_address(assembled: Assembled, protocol: Protocol, device: str, step: int | None = None) -> str:
    """Of a model's sample set: its trained phases, its parts and their code, the sampler, the protocol's clips and
    seed, the data, versions and the device class. step: of the last phase, where it is not finished."""
    said = {key: value for key, value in assembled.recipe.data.items() if key not in WHOLE}
    made = {sources_hash(one.type) for at, one in assembled.made.items() if not at.startswith("metrics.")}
    return digest(
        {
            "phases": [phase.address for phase in assembled.plan.phases],
            "step": step,
            "recipe": said,
            "code": [*sorted(made), core_hash()],
            "asked": _asked(protocol),
            "data": assembled.dataset.fingerprint(),
            "torch": torch.__version__,
            "device": device,
        }
    )


def score_address(looked: str, metric: Metric, protocol: Protocol, data: str) -> str:
    """Of one metric's scores of some video. looked: the address of the video."""
    return digest(
        {
            "looked": looked,
            "metric": metric.protocol(),
            "code": [sources_hash(type(metric)), core_hash()],
            "asked": [*_asked(protocol), protocol.reference],
            "data": data,
        }
    )


def _asked(protocol: Protocol) -> list[Any]:
    """What of a protocol decides which clips are made."""
    said = asdict(protocol)
    return [said[key] for key in ("split", "clips", "seed", "precision")]
