"""From the runs of a study to `results.json`: cells with intervals, differences with verdicts, curves, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mutoscope.benchmarks import statistics
from mutoscope.benchmarks.study import Arm, Study
from mutoscope.core.storage.journal import read_journal
from mutoscope.core.training.provenance import environment
from mutoscope.registry.runs import read_json

FORMAT = 1
CURVES = ("loss", "learner.loss", "discriminator.loss", "gradient_norm")
"""Records of the journal that the report draws."""


def tabulate(study: Study, work: Mapping[str, Any], folder: Path, device: str = "cpu") -> dict[str, Any]:
    """The content of `results.json`. work: what `run_study` gave."""
    runs = [run for run in work["runs"] if run["status"] == "done"]
    failures = [{k: run[k] for k in ("arm", "seed", "error")} for run in work["runs"] if run["status"] != "done"]
    cells, differences = _cells(runs), _differences(runs)
    kind = statistics.kind(len(study.seeds))
    return {
        "format": FORMAT,
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": kind,
        "sentence": _sentence(kind, len(study.seeds), differences, failures),
        "arms": [_arm(study, arm, work["runs"], folder) for arm in study.arms],
        "rows": [{"arm": run["arm"], "seed": run["seed"], **row} for run in runs for row in run["rows"]],
        "cells": cells,
        "references": work["references"],
        "differences": differences,
        "curves": _curves(study, runs, folder),
        "videos": _videos(runs, folder),
        "protocol": {**asdict(study.protocol), "match": study.match, "seeds": list(study.seeds)},
        "environment": environment(device),
        "failures": failures,
        "shared": _shared(runs, folder),
    }


def _by_arm(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda r: r["seed"]):
        arms.setdefault(run["arm"], []).append(run)
    return arms


def _cells(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One cell per arm and metric, over its seeds."""
    cells = []
    for arm, mine in _by_arm(runs).items():
        for row in mine[0]["rows"]:
            name = row["metric"]
            clips = [np.array(run["clips"][name]) for run in mine if name in run["clips"]]
            if len(clips) == len(mine):
                cell = asdict(statistics.cell(clips))
            else:
                cell = _of_sets([next(r for r in run["rows"] if r["metric"] == name) for run in mine])
            better = mine[0]["better"][name]
            cells.append({"arm": arm, "metric": name, "split": row["split"], "better": better, **cell})
    return cells


def _of_sets(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A cell of distances between sets: Student's over seeds where there are enough, else the seeds' own intervals."""
    values = [row["value"] for row in rows]
    n, seeds, value = sum(row["n"] for row in rows), len(rows), float(np.mean(values))
    if seeds < statistics.FEW:
        low, high = float(np.mean([row["low"] for row in rows])), float(np.mean([row["high"] for row in rows]))
        return {"value": value, "low": low, "high": high, "n": n, "seeds": seeds, "basis": "clips only"}
    low, high = statistics.student(values)
    return {"value": value, "low": low, "high": high, "n": n, "seeds": seeds, "basis": "t over seeds"}


def _differences(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every pair of arms on every metric that both have clip by clip, with Holm's correction within a metric."""
    arms = _by_arm(runs)
    told = []
    names = list(dict.fromkeys(name for run in runs for name in run["clips"]))
    for name in names:
        found, pairs = [], []
        for a, b in combinations(arms, 2):
            seeds = sorted({r["seed"] for r in arms[a]} & {r["seed"] for r in arms[b]})
            one, other = ([_clips(arms[arm], seed, name) for seed in seeds] for arm in (a, b))
            if seeds and all(
                x is not None and y is not None and len(x) == len(y) for x, y in zip(one, other, strict=True)
            ):
                found.append(statistics.difference(one, other))  # type: ignore[arg-type]
                pairs.append((a, b))
        higher = next((run["better"][name] for run in runs if name in run["better"]), "higher") == "higher"
        for (a, b), d in zip(pairs, statistics.with_holm(found, pairs, higher), strict=True):
            told.append({"a": a, "b": b, "metric": name, **asdict(d)})
    return told


def _clips(runs: Sequence[Mapping[str, Any]], seed: int, name: str) -> np.ndarray | None:
    clips = next((run["clips"].get(name) for run in runs if run["seed"] == seed), None)
    return None if clips is None else np.array(clips)


def _sentence(
    kind: str, seeds: int, differences: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]
) -> str:
    """The verdict in words."""
    failed = f" {len(failures)} of the runs failed." if failures else ""
    if kind == "demonstration":
        said = "one seed" if seeds == 1 else f"{seeds} seeds"
        return (
            f"A demonstration: with {said}, intervals are over clips only and no verdict between arms is given.{failed}"
        )
    head = [d for d in differences if d["metric"].endswith(".all")] or differences[:1]
    words = "; ".join(f"{d['metric']}: {d['a']} against {d['b']}: {d['verdict']}" for d in head)
    return f"{'Exploratory, ' if kind == 'exploratory' else ''}{seeds} seeds. {words}.{failed}"


def _arm(study: Study, arm: Arm, runs: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """What an arm is and what it really spent."""
    mine = [run for run in runs if run["arm"] == arm.name]
    done = [run for run in mine if run["status"] == "done"]
    last = arm.cost["phases"][-1]
    spent = [run["spent"].get(last["name"], {}) for run in done]
    mean = {
        key: float(np.mean([s.get(key, 0) for s in spent])) if spent else 0.0
        for key in ("seconds", "samples", "tokens")
    }
    parts = {address: part["type"] for address, part in arm.cost["parts"].items()}
    memory = [record["peak_memory"] for run in done for record in _journal(folder, run)[-1:]]
    return {
        "name": arm.name,
        "runs": [run["run"] for run in mine],
        "parts": parts,
        "parameters": arm.cost["parts"]["denoiser"]["parameters"] if "denoiser" in parts else 0,
        "all_parameters": sum(part["parameters"] for address, part in arm.cost["parts"].items() if "." not in address),
        "trained": sum(part["trained"] for address, part in arm.cost["parts"].items() if "." not in address),
        "flops_per_step": last["flops_per_step"],
        "training_flops": last["flops"],
        "shared_flops": sum(phase["flops"] or 0 for phase in arm.cost["phases"][:-1]),
        "steps": last["steps"],
        **mean,
        "peak_memory": max(memory, default=0),
        "sampling_calls": done[0]["sampling"]["calls"] if done else None,
        "sampling_flops": arm.cost["sampling_flops"],
        "sampling_seconds": float(np.mean([r["sampling"]["seconds"] / r["sampling"]["clips"] for r in done]))
        if done
        else None,
        "recipe": arm.recipe.data,
        "status": "done" if len(done) == len(mine) else "failed",
        "errors": [run["error"] for run in mine if "error" in run],
    }


def _journal(folder: Path, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    return read_journal(folder / run["run"] / "metrics.jsonl")


def _curves(study: Study, runs: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What the journals say of losses, against steps, FLOPs and seconds."""
    costs = {arm.name: {p["name"]: p["flops_per_step"] for p in arm.cost["phases"]} for arm in study.arms}
    curves: dict[tuple[str, int, str, str], dict[str, Any]] = {}
    for run in runs:
        for record in _journal(folder, run):
            per_step = costs[run["arm"]].get(record["phase"]) or 0.0
            for name in CURVES:
                if not isinstance(record.get(name), (int, float)):
                    continue
                key = (run["arm"], run["seed"], record["phase"], name)
                curve = curves.setdefault(
                    key,
                    {"arm": key[0], "seed": key[1], "phase": key[2], "name": name, "x": [], "flops": [], "seconds": [], "y": [],
                     "reused": bool(record.get("reused"))},
                )  # fmt: skip
                curve["x"].append(record["step"])
                curve["flops"].append(record["step"] * per_step)
                curve["seconds"].append(record["seconds"])
                curve["y"].append(record[name])
    return list(curves.values())


def _videos(runs: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The shown clips: the first ones of the split, never picked; ground truth first, then every arm's first seed."""
    kept = folder / "scores" / "references.json"
    if not kept.exists():
        return []
    truth = read_json(kept)
    prompts = truth["prompts"]
    shown = [
        {"prompt": prompts[i], "arm": "ground truth", "seed": None, "clip": i, "file": file, "right": {}}
        for i, file in enumerate(truth["videos"])
    ]
    for mine in _by_arm(runs).values():
        run = mine[0]
        for i, file in enumerate(run["videos"]):
            right = run["right"][i] if i < len(run["right"]) else {}
            shown.append(
                {"prompt": prompts[i], "arm": run["arm"], "seed": run["seed"], "clip": i, "file": file, "right": right}
            )
    return shown


def _shared(runs: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Phases that several runs took from one training."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for phase in read_json(folder / run["run"] / "run.json")["phases"]:
            spent = run["spent"].get(phase["name"], {})
            entry = found.setdefault(
                phase["address"],
                {"phase": phase["name"], "address": phase["address"], "seconds": spent.get("seconds"), "arms": []},
            )
            entry["arms"].append(f"{run['arm']} {run['seed']}")
    return [entry for entry in found.values() if len(entry["arms"]) > 1]
