"""Scoring one finished run, or one under way: what `evaluate` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mutoscope.benchmarks.evaluation import Looked, Protocol, Truth, as_row, merged, reconstruct, sample, score
from mutoscope.core.errors import InputError
from mutoscope.core.model import stages_of
from mutoscope.core.storage.atomic import write_json
from mutoscope.core.storage.failpoints import reach
from mutoscope.core.storage.lock import RunLock
from mutoscope.core.training.progress import Progress
from mutoscope.registry.runs import load

METRICS = "metrics.json"
SAID = ("value", "low", "high", "n", "split", "fingerprint")
"""What `metrics.json` has of every score."""


def score_run(
    folder: Path, split: str, clips: int | None, plugins: Sequence[Path], device: str | None, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Samples and scores a run, and writes `metrics.json` into it; gives what it wrote, by dotted name of the metric.

    clips: how many; None for the protocol's, or all of a smaller split. Raises InputError on a split that the data
    does not have or a recipe without metrics, DataError on fewer clips than asked for, RunInUse.
    """
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"{folder} is not a run folder: it has no recipe.yaml")
    with RunLock(folder):  # from before the weights are read: a run that is trained deletes its older checkpoints
        return _scored(folder, split, clips, plugins, device, progress)


def _scored(
    folder: Path, split: str, clips: int | None, plugins: Sequence[Path], device: str | None, progress: Progress
) -> dict[str, dict[str, Any]]:
    loaded = load(folder, device=device, plugins=plugins)
    for note in loaded.notes:
        progress.note(note)
    metrics, dataset = loaded.assembled.metrics, loaded.assembled.dataset
    if not metrics:
        raise InputError(field="metrics", problem=f"the recipe of {folder} names none; nothing to score by")
    protocol = Protocol(split=split)
    if split in dataset.splits():
        protocol = replace(protocol, clips=clips or min(protocol.clips, dataset.length(split)))
    reach("evaluate.begin")
    truths, groups, done = Truth.by_size(dataset, protocol), [], 0
    device_type = stages_of(loaded.model)[-1][1].device.type
    progress.begin("sampling", protocol.clips)
    for truth in truths:
        video = sample(
            loaded.model, truth.real, protocol, lambda n, done=done: progress.advance(done + n), places=truth.places
        )
        done += len(video)
        rebuilt = None
        if any(metric.wants == "reconstruction" for metric in metrics):
            rebuilt = reconstruct(loaded.model, truth.real.video)  # type: ignore[arg-type]
        looked = Looked(video, model=loaded.model, seed=protocol.seed)
        groups.append((truth, score(metrics, looked, truth, protocol, dataset, rebuilt, device_type)))
    progress.end()
    reach("evaluate.sampled")
    scored = merged(groups)
    scores = {row["metric"]: {key: row[key] for key in SAID} for row in map(as_row, scored)}
    reach("evaluate.scored")
    write_json(folder / METRICS, scores)
    return scores  # type: ignore[return-value]
