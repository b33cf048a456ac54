"""Running a study: every arm and seed trained, sampled and scored once, then one table and one report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import floor
from pathlib import Path
from typing import Any

import numpy as np

from mutoscope.benchmarks.evaluation import Looked, reconstruct, references
from mutoscope.benchmarks.executors import Executor, Local
from mutoscope.benchmarks.kept import samples_address
from mutoscope.benchmarks.ladder import climb
from mutoscope.benchmarks.matching import Arm, place_of_last, with_steps
from mutoscope.benchmarks.outside import captions
from mutoscope.benchmarks.reporting.page import write_report
from mutoscope.benchmarks.reporting.tables import write_tables
from mutoscope.benchmarks.study import UNSAFE, Study, with_shares
from mutoscope.benchmarks.tabulate import tabulate
from mutoscope.benchmarks.work import Source, Work, loaded, run_name, run_path, save_videos, scores_of
from mutoscope.core.errors import InputError
from mutoscope.core.model import ROLES, Cascade, Model, stages_of
from mutoscope.core.storage.atomic import write_json, write_text
from mutoscope.core.storage.journal import read_journal
from mutoscope.core.storage.lock import RunLock
from mutoscope.core.training.distribution import join
from mutoscope.core.training.progress import Progress
from mutoscope.core.training.signals import interruptible
from mutoscope.registry.addresses import digest
from mutoscope.registry.assembly import Assembled, assemble
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.runs import PHASES, read_json, train_recipe

LEARNT_TOGETHER = ("denoiser", "conditioner", "objective")
"""The roles that a denoiser's phase teaches."""
LADDER = 1
"""Changes whenever the ladder does."""
PROBED = 12
"""Steps by which a machine is timed where the budget is of seconds."""


def compare(
    study: Study,
    folder: Path,
    progress: Progress,
    device: str | None = None,
    command: str = "",
    executor: Executor | None = None,
    mix: bool = False,
) -> dict[str, Any]:
    """Runs a study and writes `results.json`, `report.html` and the tables into its folder; gives the results.

    command: what does the same again, for the report. executor: where the runs are worked on; by default here, one
    after another. mix: put scores that were not measured alike into one table, and mark them. Raises RunInUse when
    another process works in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        study, work = run_study(study, folder, progress, device, executor, command)
        results = tabulate(study, work, folder, command, mix)
        write_json(folder / "results.json", results)
        write_tables(folder, results)
        write_report(folder / "report.html", results)
    return results


def run_study(
    study: Study,
    folder: Path,
    progress: Progress,
    device: str | None = None,
    executor: Executor | None = None,
    command: str = "",
) -> tuple[Study, dict[str, Any]]:
    """Does what of a study is not done yet; gives the study, its budgets in steps, and everything its results are made
    from, which also lies in the folder.

    An arm that fails is noted and does not stop the others. Raises Interrupted on a signal: the same call goes on.
    """
    started = time.monotonic()
    with interruptible() as stop:
        work = Work(study, folder, folder.parent / PHASES, progress, stop, device)
        if any(arm.aim is not None and arm.aim.kind == "seconds" for arm in study.arms):
            study = timed(work)
            work = replace(work, study=study)
        _claim(study, folder, command)
        runs = (executor or Local()).run(work)
        framed = next((run for run in runs if run["status"] == "done" and not study.arm(run["arm"]).videos), None)
        framing = _references(work, framed, runs) if framed else []
        ladders = _ladders(work, framed) if framed else []
    clock = {"whole": time.monotonic() - started, "floors and ceilings": sum(work.clock.values())}
    return study, {"runs": runs, "references": framing, "ladders": ladders, "clock": clock}


def timed(work: Work) -> Study:
    """The study with budgets of seconds as steps: as many as fit at the pace that this machine was once timed at, which
    is kept in `timing.json`, so that the same command goes on with the same steps."""
    kept = work.folder / "timing.json"
    paces: dict[str, float] = read_json(kept) if kept.is_file() else {}
    arms, notes = [], []
    for arm in work.study.arms:
        if arm.aim is None or arm.aim.kind != "seconds" or arm.aim.amount is None:
            arms.append(arm)
            continue
        if arm.name not in paces:
            paces[arm.name] = _pace(work, arm)
            write_json(kept, paces)
        steps = max(1, floor(arm.aim.amount / paces[arm.name]))
        arms.append(with_shares(with_steps(arm, steps), work.study.protocol.shares))
        notes.append(f"{arm.name}: {steps} steps of {paces[arm.name]:.3g} s, as timed on this machine")
    return replace(work.study, arms=tuple(arms), notes=(*work.study.notes, *notes))


def _pace(work: Work, arm: Arm) -> float:
    """Seconds of one step of an arm's last phase: the median of a few, the first left out."""
    work.progress.note(f"{arm.name}: timing {PROBED} steps")
    probe = with_steps(arm, PROBED).recipe.replace(place_of_last(arm, "log_every"), 1)
    probe = probe.replace(("training", "seed"), work.study.seeds[0])
    place = work.folder / "timing" / run_name(arm.name, PROBED)
    train_recipe(probe, work.study.catalog, place, work.device, work.progress, work.store)
    seconds = [r["seconds"] for r in read_journal(place / "metrics.jsonl") if r["phase"] == arm.phase["name"]]
    return max(1e-4, float(np.median(np.diff(seconds)[1:])))


def _claim(study: Study, folder: Path, command: str) -> None:
    """Writes what the folder's study is, or checks that it is this one. More arms, seeds, clips or prompts are no other
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
    for arm in study.arms:
        write_text(folder / arm_file(arm.name), arm.recipe.dump())
    runs = [
        {"arm": arm.name, "seed": seed, "run": run_path(arm, seed, folder), "scores": run_name(arm.name, seed)}
        for seed, arm in study.pairs()
    ]
    write_json(
        written,
        {
            "format": 2,
            "name": study.name,
            "title": study.title,
            "question": study.question,
            "seeds": list(study.seeds),
            "match": study.match,
            "protocol": asdict(study.protocol),
            "show": study.show,
            "untrained": study.untrained,
            "notes": list(study.notes),
            "command": command,
            "arms": [
                {
                    "name": arm.name,
                    "recipe": arms[arm.name],
                    "file": arm_file(arm.name),
                    "cost": arm.cost,
                    "finished": {str(seed): str(run.resolve()) for seed, run in arm.finished.items()},
                    "videos": str(arm.videos) if arm.videos else None,
                }
                for arm in study.arms
            ],
            "runs": runs,
        },
    )


def arm_file(name: str) -> str:
    """Where the resolved recipe of an arm lies in the study's folder."""
    return f"arms/{UNSAFE.sub('-', name).strip('-.')}.yaml"


# Floors and ceilings


def _references(work: Work, framed: Mapping[str, Any], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What frames the table: real clips, the round trip, mindless videos and untrained models, by the same code."""
    study = work.study
    assembled, _ = loaded(work, work.folder / framed["run"])
    protocol, data = study.protocol, assembled.dataset.fingerprint()
    truth = work.truth(assembled)
    work.progress.note("scoring floors and ceilings")
    asked = digest([data, protocol.split, protocol.clips, protocol.reference])
    sources: list[tuple[str, str, Source]] = [
        (name, kind, Source(digest([name, asked]), lambda video=video: Looked(video)))
        for name, (kind, video) in references(truth).items()
    ]
    coded = digest(["round trip as video", samples_address(assembled, protocol, work.device_type)])
    real = truth.real.video
    sources.append(
        ("autoencoder round trip", "ceiling", Source(coded, lambda: Looked(reconstruct(assembled.model, real))))  # type: ignore[arg-type]
    )
    rows = []
    for name, kind, source in sources:
        work.check()
        told = scores_of(work, assembled.metrics, source, lambda: truth, assembled)
        rows += [{"name": name, "kind": kind, **one["row"]} for one in told]
    if study.untrained:
        chosen = _firsts(runs, study) if study.untrained == "each" else [framed]
        for run in chosen:
            rows += [{"name": "untrained", "kind": "floor", **row} for row in _untrained_rows(work, run)]
    kept = work.folder / "scores" / "references.json"
    videos = save_videos(work.folder, "ground-truth", real[: study.show], getattr(assembled.dataset, "fps", 8))  # type: ignore[index]
    write_json(kept, {"rows": rows, "videos": videos, "prompts": list(truth.real.prompt or ())})
    asked_for = "".join(f"{_line(line)}\n" for line in captions(truth.real))
    write_text(work.folder / "asked.jsonl", asked_for)
    return rows


def _ladders(work: Work, framed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Whether every extractor that a distance goes by puts corruptions in order."""
    recipe = work.study.recipe(work.study.arm(framed["arm"]), framed["seed"])
    assembled = assemble(recipe, work.study.catalog, device=str(join(work.device).device))
    told = []
    for metric in assembled.metrics:
        extractor = metric.protocol().get("extractor")
        if extractor is None or metric.wants != "video":
            continue
        protocol, data = work.study.protocol, assembled.dataset.fingerprint()
        kept = (
            work.kept.scores
            / f"ladder-{digest([metric.protocol(), protocol.split, protocol.reference, data, LADDER])}.json"
        )
        if not kept.is_file():
            work.check()
            with work.clocked("ladders"):
                found = climb(metric, work.truth(assembled), protocol.split)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"found": found})
        found = read_json(kept)["found"]
        if found is not None:
            told.append({**found, "extractor": extractor})
    return told


def _line(said: Any) -> str:
    import json

    return json.dumps(said)


def _firsts(runs: list[dict[str, Any]], study: Study) -> list[dict[str, Any]]:
    """The first finished run of every arm that was trained."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run["status"] == "done" and not study.arm(run["arm"]).videos:
            found.setdefault(run["arm"], run)
    return list(found.values())


def _untrained_rows(work: Work, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores of a run's model before its denoiser learnt anything, with the arm that it is of."""
    arm, seed = work.study.arm(run["arm"]), run["seed"]
    assembled, _ = loaded(work, work.folder / run["run"])
    truth = work.truth(assembled)
    address = digest(["untrained", samples_address(assembled, work.study.protocol, work.device_type)])

    def look() -> Looked:
        found = work.kept.video(address)
        if found is None:
            fresh = untrained(assembled, work.study, work.study.recipe(arm, seed), work.device)
            video = work.sample("untrained", fresh, truth)
            work.kept.keep_video(address, video, {})
            return Looked(video, seed=work.study.protocol.seed)
        return Looked(found[0], seed=work.study.protocol.seed)

    told = scores_of(work, assembled.metrics, Source(address, look), lambda: truth, assembled)
    return [{"arm": run["arm"], **one["row"]} for one in told]


def untrained(assembled: Assembled, study: Study, recipe: Recipe, device: str | None) -> Model | Cascade:
    """The same model before its denoiser learnt anything: denoiser, conditioners and objective freshly initialised,
    the autoencoder (and whatever else its own phase taught) as trained."""
    fresh = assemble(recipe, study.catalog, device=str(join(device).device))
    for (_, new), (_, old) in zip(stages_of(fresh.model), stages_of(assembled.model), strict=True):
        for role in ROLES:
            if role not in LEARNT_TOGETHER and old.part(role) is not None:
                new.part(role).load_state_dict(old.part(role).state_dict())
    return fresh.model.eval()
