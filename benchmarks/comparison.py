"""Running a study: every arm and seed trained, sampled and scored once; what is done stays done."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
from mutoscope.benchmarks.study import UNSAFE, Arm, Study
from mutoscope.benchmarks.tabulate import tabulate
from mutoscope.core.errors import InputError, Interrupted, MutoscopeError, RunInUse
from mutoscope.core.model import ROLES, Cascade, Model, stages_of
from mutoscope.core.storage.atomic import write_bytes, write_json
from mutoscope.core.storage.checkpoint import STATE, newest
from mutoscope.core.storage.lock import RunLock
from mutoscope.core.training.distribution import join
from mutoscope.core.training.progress import Progress
from mutoscope.core.training.provenance import reset_peak_memory
from mutoscope.core.training.signals import Stop, interruptible
from mutoscope.registry.addresses import digest
from mutoscope.registry.assembly import Assembled, assemble
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.runs import PHASES, load, read_json, recipe_hash, train_recipe, with_addresses

LEARNT_TOGETHER = ("denoiser", "conditioner", "objective")
"""The roles that a denoiser's phase teaches."""


def compare(
    study: Study, folder: Path, progress: Progress, device: str | None = None, command: str = ""
) -> dict[str, Any]:
    """Runs a study and writes `results.json` and `report.html` into its folder; gives the results.

    command: what does the same again, for the report. Raises RunInUse when another process works in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        _claim(study, folder, command)
        work = run_study(study, folder, progress, device)
        results = tabulate(study, work, folder, command)
        write_json(folder / "results.json", results)
        write_report(folder / "report.html", results)
    return results


def run_study(study: Study, folder: Path, progress: Progress, device: str | None = None) -> dict[str, Any]:
    """Does what of a study is not done yet; gives everything its results are made from, which also lies in the folder.

    An arm that fails is noted and does not stop the others. Raises Interrupted on a signal: the same call goes on.
    """
    store = folder.parent / PHASES
    runs: list[dict[str, Any]] = []
    with interruptible() as stop:
        work = Work(study, folder, store, progress, stop, device)
        for seed, arm in study.pairs():
            work.check()
            runs.append(_run(work, arm, seed))
        framed = next((run for run in runs if run["status"] == "done"), None)
        references = _references(work, framed) if framed else []
    return {"runs": runs, "references": references}


@dataclass(frozen=True)
class Work:
    """What the work on a study is done with. stop: whether a signal has asked for an end."""

    study: Study
    folder: Path
    store: Path
    progress: Progress
    stop: Stop
    device: str | None

    def check(self) -> None:
        """A safe point. Raises Interrupted when a signal has asked for an end."""
        if self.stop():
            raise Interrupted("interrupted; the same command continues")

    def sample(self, name: str, model: Model | Cascade, truth: Truth) -> Tensor:
        """Samples with a bar and a safe point after every batch."""
        self.progress.begin(f"{name}: sampling", self.study.protocol.clips)

        def told(done: int) -> None:
            self.progress.advance(done)
            self.check()

        video = sample(model, truth.real, self.study.protocol, told)
        self.progress.end()
        return video


def run_name(arm: str, seed: int) -> str:
    """The folder name of an arm at a seed."""
    return f"{UNSAFE.sub('-', arm).strip('-.')}-{seed}"


def _claim(study: Study, folder: Path, command: str) -> None:
    """Writes what the folder's study is, or checks that it is this one. More seeds, clips or prompts are no other
    study: what is done stays done."""
    written = folder / "study.json"
    arms = {arm.name: digest(arm.recipe.without("training.seed").data) for arm in study.arms}
    if written.exists():
        before = {arm["name"]: arm["recipe"] for arm in read_json(written)["arms"]}
        if other := next((name for name in arms if before.get(name, arms[name]) != arms[name]), None):
            raise InputError(
                f"{folder} holds a study with another recipe for {other}; choose another folder with --out"
            )
    elif any((folder / name).exists() for name in ("recipe.yaml", "checkpoints")):
        raise InputError(f"{folder} is a run's folder; choose another one for the study with --out")
    runs = [
        {"arm": arm.name, "seed": seed, "run": _run_path(arm, seed, folder), "scores": run_name(arm.name, seed)}
        for seed, arm in study.pairs()
    ]
    write_json(
        written,
        {
            "format": 1,
            "name": study.name,
            "title": study.title,
            "seeds": list(study.seeds),
            "match": study.match,
            "protocol": asdict(study.protocol),
            "notes": list(study.notes),
            "command": command,
            "arms": [{"name": name, "recipe": address} for name, address in arms.items()],
            "runs": runs,
        },
    )


def _run_path(arm: Arm, seed: int, folder: Path) -> str:
    """Where an arm's run is, relative to the study's folder."""
    if arm.finished:
        return os.path.relpath(arm.finished[seed].resolve(), folder.resolve())
    return f"runs/{run_name(arm.name, seed)}"


def _run(work: Work, arm: Arm, seed: int) -> dict[str, Any]:
    """Trains and scores one arm at one seed."""
    told: dict[str, Any] = {
        "arm": arm.name, "seed": seed, "run": _run_path(arm, seed, work.folder), "status": "failed"
    }  # fmt: skip
    recipe, place = work.study.recipe(arm, seed), work.folder / told["run"]
    try:
        if arm.finished:
            assembled, spent = _loaded(work, place)
        else:
            reset_peak_memory(work.device)
            _, assembled, position = train_recipe(
                recipe, work.study.catalog, place, work.device, work.progress, work.store
            )
            spent = position.spent
        return told | {
            "status": "done",
            "spent": spent,
            **scored_run(work, assembled, recipe, run_name(arm.name, seed)),
        }
    except (Interrupted, RunInUse):
        raise
    except Exception as error:
        # One arm's fault, a plugin's for instance, is that arm's result; the others still have theirs.
        expected = isinstance(error, MutoscopeError)
        said = " ".join(str(error).split()) or "no message"
        told["error"] = said if expected else f"{type(error).__name__}: {said}"
        work.progress.end()
        work.progress.note(f"{arm.name}, seed {seed}: failed: {told['error']}")
        return told


def _loaded(work: Work, run: Path) -> tuple[Assembled, dict[str, Any]]:
    """A finished run, and what it spent."""
    loaded = load(run, work.device, catalog=work.study.catalog)
    found = newest(run / "checkpoints")
    assert found is not None
    return with_addresses(loaded.assembled, work.study.catalog, join(work.device).device.type), read_json(
        found / STATE
    )["spent"]


def scored_run(work: Work, assembled: Assembled, recipe: Recipe, name: str) -> dict[str, Any]:
    """Samples and scores a trained model, once: kept in `scores/NAME.json` under the address of all it depends on."""
    address = score_address(assembled, recipe, work.study)
    kept = work.folder / "scores" / f"{name}.json"
    if kept.exists() and (before := read_json(kept))["address"] == address:
        return before
    truth = Truth.of(assembled.dataset, work.study.protocol)
    started = time.monotonic()
    video = work.sample(name, assembled.model, truth)
    seconds = time.monotonic() - started
    scored = score_model(assembled, video, truth, work.study.protocol)
    content = {
        "address": address,
        "rows": [as_row(s) for s in scored],
        "clips": {s.metric: np.asarray(s.clips).tolist() for s in scored if s.clips is not None},
        "better": {s.metric: s.better for s in scored},
        "right": right_by_clip(scored),
        "sampling": {
            "seconds": seconds, "clips": work.study.protocol.clips, "calls": sampling_calls(assembled.model)
        },
        "videos": save_videos(work.folder, name, video[: work.study.show], assembled),
    }  # fmt: skip
    write_json(kept, content)
    return content


def score_model(assembled: Assembled, video: Tensor, truth: Truth, protocol: Protocol) -> list[Scored]:
    """Scores of a model's samples, and of its autoencoder's round trip where a metric wants it."""
    assert isinstance(truth.real.video, Tensor)
    device = stages_of(assembled.model)[-1][1].device.type
    rebuilt = reconstruct(assembled.model, truth.real.video)
    return score(assembled.metrics, video, truth, protocol, assembled.dataset.fingerprint(), rebuilt, device)


def score_address(assembled: Assembled, recipe: Recipe, study: Study) -> str:
    """Hash of what a run's scores, and the clips that are shown of it, depend on."""
    phases = [phase.address for phase in assembled.plan.phases]
    metrics = [metric.protocol() for metric in assembled.metrics]
    return digest(
        [recipe_hash(recipe), phases, asdict(study.protocol), study.show, metrics, assembled.dataset.fingerprint()]
    )


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


def _references(work: Work, framed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What frames the table: real clips, the round trip, mindless videos and the untrained model, by the same code."""
    study, arm = work.study, next(a for a in work.study.arms if a.name == framed["arm"])
    recipe = study.recipe(arm, framed["seed"])
    assembled, _ = _loaded(work, work.folder / framed["run"])
    address = digest(["references", score_address(assembled, recipe, study), study.untrained])
    kept = work.folder / "scores" / "references.json"
    if kept.exists() and (before := read_json(kept))["address"] == address:
        return before["rows"]
    work.progress.note("scoring floors and ceilings")
    truth = Truth.of(assembled.dataset, study.protocol)
    framing = references(truth)
    assert isinstance(truth.real.video, Tensor)
    framing["autoencoder round trip"] = ("ceiling", reconstruct(assembled.model, truth.real.video))
    if study.untrained:
        fresh = untrained(assembled, study, recipe, work.device)
        framing["untrained"] = ("floor", work.sample("untrained", fresh, truth))
    data, device = assembled.dataset.fingerprint(), stages_of(assembled.model)[-1][1].device.type
    rows = []
    for name, (kind, video) in framing.items():
        work.check()
        for scored in score(assembled.metrics, video, truth, study.protocol, data, device=device):
            rows.append({"name": name, "kind": kind, **as_row(scored)})
    videos = save_videos(work.folder, "ground-truth", truth.real.video[: study.show], assembled)
    write_json(kept, {"address": address, "rows": rows, "videos": videos, "prompts": list(truth.real.prompt or ())})
    return rows


def untrained(assembled: Assembled, study: Study, recipe: Recipe, device: str | None) -> Model | Cascade:
    """The same model before its denoiser learnt anything: denoiser, conditioners and objective freshly initialised,
    the autoencoder (and whatever else its own phase taught) as trained."""
    fresh = assemble(recipe, study.catalog, device=str(join(device).device))
    for (_, new), (_, old) in zip(stages_of(fresh.model), stages_of(assembled.model), strict=True):
        for role in ROLES:
            if role not in LEARNT_TOGETHER and old.part(role) is not None:
                new.part(role).load_state_dict(old.part(role).state_dict())
    return fresh.model.eval()
