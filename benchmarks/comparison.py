"""Running a study: every arm and seed trained, sampled and scored once; what is done stays done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutoscope.benchmarks.evaluation import (
    Protocol,
    Scored,
    Truth,
    as_row,
    reconstruct,
    references,
    right_by_clip,
    sample,
    score,
)
from mutoscope.benchmarks.reporting.page import write_report
from mutoscope.benchmarks.reporting.video import encode_webm
from mutoscope.benchmarks.study import Arm, Study
from mutoscope.benchmarks.tabulate import tabulate
from mutoscope.core.errors import Interrupted, MutoscopeError
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.storage.atomic import write_bytes, write_json
from mutoscope.core.training.progress import Progress
from mutoscope.registry.addresses import digest
from mutoscope.registry.assembly import Assembled, assemble
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.runs import PHASES, read_json, recipe_hash, train_recipe


def run_study(study: Study, folder: Path, progress: Progress, device: str | None = None) -> dict[str, Any]:
    """Does what of a study is not done yet; gives everything its results are made from, which also lies in the folder.

    An arm that fails is noted and does not stop the others. Raises Interrupted on a signal: the same call goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = folder.parent / PHASES
    runs: list[dict[str, Any]] = []
    for seed in study.seeds:
        for arm in study.arms:
            runs.append(_run(study, arm, seed, folder, store, progress, device))
    framed = next((run for run in runs if run["status"] == "done"), None)
    frames = _references(study, folder, framed, progress, device) if framed else []
    return {"runs": runs, "references": frames}


def compare(study: Study, folder: Path, progress: Progress, device: str | None = None) -> dict[str, Any]:
    """Runs a study and writes `results.json` and `report.html` into its folder; gives the results."""
    work = run_study(study, folder, progress, device)
    results = tabulate(study, work, folder, device or "cpu")
    write_json(folder / "results.json", results)
    write_report(folder / "report.html", results)
    return results


def run_name(arm: str, seed: int) -> str:
    """The folder name of an arm at a seed."""
    return f"{arm}-{seed}".replace(" ", "-").replace("/", "-")


def _run(
    study: Study, arm: Arm, seed: int, folder: Path, store: Path, progress: Progress, device: str | None
) -> dict[str, Any]:
    """Trains and scores one arm at one seed."""
    name, recipe = run_name(arm.name, seed), study.recipe(arm, seed)
    told: dict[str, Any] = {"arm": arm.name, "seed": seed, "run": f"runs/{name}", "status": "failed"}
    try:
        _, assembled, position = train_recipe(recipe, study.catalog, folder / "runs" / name, device, progress, store)
        scored = scored_run(assembled, recipe, study.protocol, folder, name, study.show, progress)
    except Interrupted:
        raise
    except MutoscopeError as error:
        progress.note(f"{arm.name}, seed {seed}: failed: {error}")
        return told | {"error": str(error)}
    return told | {"status": "done", "spent": position.spent, **scored}


def scored_run(
    assembled: Assembled, recipe: Recipe, protocol: Protocol, folder: Path, name: str, show: int, progress: Progress
) -> dict[str, Any]:
    """Samples and scores a trained model, once: kept in `scores/NAME.json` under the address of all it depends on."""
    address = score_address(assembled, recipe, protocol)
    kept = folder / "scores" / f"{name}.json"
    if kept.exists() and (before := read_json(kept))["address"] == address:
        return before
    truth = Truth.of(assembled.dataset, protocol)
    progress.note(f"{name}: sampling {protocol.clips} clips")
    started = time.monotonic()
    video = sample(assembled.model, truth.real, protocol)
    seconds = time.monotonic() - started
    scored = score_model(assembled, video, truth, protocol)
    content = {
        "address": address,
        "rows": [as_row(s) for s in scored],
        "clips": {s.metric: np.asarray(s.clips).tolist() for s in scored if s.clips is not None},
        "better": {s.metric: s.better for s in scored},
        "right": right_by_clip(scored),
        "sampling": {"seconds": seconds, "clips": protocol.clips, "calls": sampling_calls(assembled.model)},
        "videos": save_videos(folder, name, video[:show], assembled),
    }
    write_json(kept, content)
    return content


def score_model(assembled: Assembled, video: Tensor, truth: Truth, protocol: Protocol) -> list[Scored]:
    """Scores of a model's samples, and of its autoencoder's round trip where a metric wants it."""
    assert isinstance(truth.real.video, Tensor)
    device = stages_of(assembled.model)[-1][1].device.type
    rebuilt = reconstruct(assembled.model, truth.real.video)
    return score(assembled.metrics, video, truth, protocol, assembled.dataset.fingerprint(), rebuilt, device)


def score_address(assembled: Assembled, recipe: Recipe, protocol: Protocol) -> str:
    """Hash of what a run's scores depend on."""
    phases = [phase.address for phase in assembled.plan.phases]
    metrics = [metric.protocol() for metric in assembled.metrics]
    return digest([recipe_hash(recipe), phases, asdict(protocol), metrics, assembled.dataset.fingerprint()])


def sampling_calls(model: Model | Cascade) -> int:
    """Network calls per clip, over all stages."""
    calls = 0
    for _, stage in stages_of(model):
        grid = stage.patchifier.token_grid(stage.autoencoder.latent_grid(stage.clip.frames, stage.clip.size))
        calls += stage.sampler.calls(stage.patchifier.canvas([grid], stage.device))
    return calls


def save_videos(folder: Path, name: str, video: Tensor, assembled: Assembled) -> list[str]:
    """Writes clips as WebM under `videos/`; their paths relative to the folder."""
    paths = []
    for i, clip in enumerate(as_uint8(video)):
        path = Path("videos") / f"{name}-{i:02d}.webm"
        write_bytes(folder / path, encode_webm(clip, fps=getattr(assembled.dataset, "fps", 8)))
        paths.append(str(path))
    return paths


def as_uint8(video: Tensor) -> np.ndarray:
    """B C T H W in [-1, 1] to B T H W C bytes."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()


def _references(
    study: Study, folder: Path, framed: Mapping[str, Any], progress: Progress, device: str | None
) -> list[dict[str, Any]]:
    """What frames the table: real clips, the round trip, mindless videos and the untrained model, by the same code."""
    arm = next(a for a in study.arms if a.name == framed["arm"])
    recipe = study.recipe(arm, framed["seed"])
    assembled = trained_like(study, recipe, folder / framed["run"], device)
    address = digest(["references", score_address(assembled, recipe, study.protocol)])
    kept = folder / "scores" / "references.json"
    if kept.exists() and (before := read_json(kept))["address"] == address:
        return before["rows"]
    progress.note("scoring floors and ceilings")
    truth = Truth.of(assembled.dataset, study.protocol)
    framing = references(truth)
    assert isinstance(truth.real.video, Tensor)
    framing["autoencoder round trip"] = ("ceiling", reconstruct(assembled.model, truth.real.video))
    if study.untrained:
        framing["untrained"] = (
            "floor",
            sample(untrained(assembled, study, recipe, device), truth.real, study.protocol),
        )
    rows = []
    for name, (kind, video) in framing.items():
        for scored in score(assembled.metrics, video, truth, study.protocol, assembled.dataset.fingerprint()):
            rows.append({"name": name, "kind": kind, **as_row(scored)})
    videos = save_videos(folder, "ground-truth", truth.real.video[: study.show], assembled)
    write_json(kept, {"address": address, "rows": rows, "videos": videos, "prompts": list(truth.real.prompt or ())})
    return rows


def trained_like(study: Study, recipe: Recipe, run: Path, device: str | None) -> Assembled:
    """A finished run, loaded with the study's plugins."""
    from mutoscope.registry.runs import load

    return load(run, device, catalog=study.catalog).assembled


def untrained(assembled: Assembled, study: Study, recipe: Recipe, device: str | None) -> Model | Cascade:
    """The same model with the weights that its last phase started from: everything else is as trained."""
    fresh = assemble(recipe, study.catalog, device=device or "cpu")
    for (_, new), (_, old) in zip(stages_of(fresh.model), stages_of(assembled.model), strict=True):
        new.autoencoder.load_state_dict(old.autoencoder.state_dict())
    return fresh.model.eval()
