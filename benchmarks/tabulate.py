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
from mutoscope.benchmarks.reporting.words import short, signed
from mutoscope.benchmarks.study import Arm, Study
from mutoscope.core.errors import InputError
from mutoscope.core.storage.journal import read_journal
from mutoscope.registry.recipe import PARTS
from mutoscope.registry.runs import read_json

FORMAT = 1
CURVES = ("loss", "learner.loss", "discriminator.loss", "gradient_norm", "learner.gradient_norm")
"""Records of the journal that the report draws."""
MATCHED = 0.01
"""How far, as a share of the budget, what an arm spent may lie from it."""


def tabulate(study: Study, work: Mapping[str, Any], folder: Path, command: str = "") -> dict[str, Any]:
    """The content of `results.json`. work: what `run_study` gave. Raises InputError where the arms' scores were not
    measured alike: two fingerprints do not share a table."""
    runs = [run for run in work["runs"] if run["status"] == "done"]
    failures = [{k: run[k] for k in ("arm", "seed", "error")} for run in work["runs"] if run["status"] != "done"]
    cells, differences = _cells(runs), _differences(runs)
    seeds = min((len(mine) for mine in _by_arm(runs).values()), default=0)
    kind = statistics.kind(seeds)
    return {
        "format": FORMAT,
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "kind": kind,
        "sentence": _sentence(kind, seeds, study.protocol.clips, cells, differences, failures),
        "arms": [_arm(study, arm, work["runs"], folder) for arm in study.arms],
        "rows": [{"arm": run["arm"], "seed": run["seed"], **row} for run in runs for row in run["rows"]],
        "cells": cells,
        "references": work["references"],
        "differences": differences,
        "budget": _budget(study, runs, folder),
        "shared": _shared(study, runs, folder),
        "settings": _settings(study),
        "curves": _curves(study, runs, folder),
        "videos": _videos(runs, folder, study.show),
        "protocol": {**asdict(study.protocol), "match": study.match, "seeds": list(study.seeds)},
        "fingerprints": _fingerprints([*(row for run in runs for row in run["rows"]), *work["references"]]),
        "environment": read_json(folder / runs[0]["run"] / "run.json")["environment"] if runs else {},
        "failures": failures,
    }


def headline(metrics: Sequence[str]) -> str | None:
    """The metric that a verdict names: the first that asks for everything at once, else the first."""
    return next((name for name in metrics if name.endswith(".all")), next(iter(metrics), None))


def _fingerprints(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The one fingerprint of every metric."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["metric"], set()).add(row["fingerprint"])
    for metric, prints in found.items():
        if len(prints) > 1:
            raise InputError(
                f"{metric}: scored in two ways ({', '.join(sorted(prints))}); two fingerprints do not share a table"
            )
    return {metric: prints.pop() for metric, prints in found.items()}


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
            rows = [found for run in mine for found in run["rows"] if found["metric"] == name]
            clips = [np.array(run["clips"][name]) for run in mine if name in run["clips"]]
            cell = asdict(statistics.cell(clips)) if len(clips) == len(mine) else _of_sets(rows)
            told = {"arm": arm, "metric": name, "split": row["split"], "better": mine[0]["better"][name]}
            cells.append({**told, **cell, "reliable": all(found["reliable"] for found in rows)})
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
    for name in dict.fromkeys(row["metric"] for run in runs for row in run["rows"]):
        found, pairs = [], []
        for a, b in combinations(arms, 2):
            seeds = sorted({run["seed"] for run in arms[a]} & {run["seed"] for run in arms[b]})
            one, other = ([_clips(arms[arm], seed, name) for seed in seeds] for arm in (a, b))
            sets = all(values is not None and len(values) == 1 for values in (*one, *other))
            alike = all(x is not None and y is not None and len(x) == len(y) for x, y in zip(one, other, strict=True))
            if seeds and alike and (not sets or len(seeds) >= statistics.FEW):
                found.append(statistics.difference(one, other))  # type: ignore[arg-type]
                pairs.append((a, b))
        higher = next((run["better"][name] for run in runs if name in run["better"]), "higher") == "higher"
        for (a, b), d in zip(pairs, statistics.with_holm(found, pairs, higher), strict=True):
            told.append({"a": a, "b": b, "metric": name, **asdict(d)})
    return told


def _clips(runs: Sequence[Mapping[str, Any]], seed: int, name: str) -> np.ndarray | None:
    """A run's score clip by clip; of a distance between sets, its one value."""
    run = next(run for run in runs if run["seed"] == seed)
    if name in run["clips"]:
        return np.array(run["clips"][name])
    value = next((row["value"] for row in run["rows"] if row["metric"] == name), None)
    return None if value is None else np.array([value])


def _sentence(
    kind: str,
    seeds: int,
    clips: int,
    cells: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> str:
    """The verdict in words."""
    failed = (
        f" {_count(len(failures), 'run')} failed and {'is' if len(failures) == 1 else 'are'} listed."
        if failures
        else ""
    )
    if not seeds:
        return f"Nothing to compare: no run has finished.{failed}"
    name = headline(list(dict.fromkeys(cell["metric"] for cell in cells)))
    said = f"{_count(seeds, 'seed')}, {_count(clips, 'clip')} each"
    if name is None:
        return f"{said}; the recipe lists no metrics, so there are no scores to compare.{failed}"
    if kind == "demonstration":
        values = "; ".join(
            f"{c['arm']} {short(c['value'])} [{short(c['low'])}, {short(c['high'])}]"
            for c in cells
            if c["metric"] == name
        )
        opening = "A demonstration, without a verdict between arms"
        return f"{opening}: {said}, intervals over clips only. {name}: {values}.{failed}"
    words = [
        f"{d['b']} − {d['a']} = {signed(d['difference'])} [{signed(d['low'])}, {signed(d['high'])}]: {d['verdict']}"
        for d in differences
        if d["metric"] == name
    ]
    opening = "Exploratory: " if kind == "exploratory" else ""
    return f"{opening}{said}. {name}: {'; '.join(words) or 'one arm, nothing to compare it with'}.{failed}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _arm(study: Study, arm: Arm, runs: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """What an arm is and what it really spent: means over its runs that are done, of the phase that is compared."""
    mine = [run for run in runs if run["arm"] == arm.name]
    done = [run for run in mine if run["status"] == "done"]
    last, parts = arm.cost["phases"][-1], arm.cost["parts"]
    spent = [run["spent"].get(last["name"], {}) for run in done]
    outer = {address: part for address, part in parts.items() if not _nested(address, parts)}
    memory = [record["peak_memory"] for run in done for record in _journal(folder, run)[-1:]]
    denoisers = [part["parameters"] for address, part in outer.items() if address.rpartition(".")[2] == "denoiser"]
    return {
        "name": arm.name,
        "runs": [run["run"] for run in mine],
        "parts": {address: part["type"] for address, part in parts.items()},
        "weights": {address: [part["parameters"], part["trained"]] for address, part in parts.items()},
        "parameters": sum(denoisers),
        "all_parameters": sum(part["parameters"] for part in outer.values()),
        "trained": sum(part["trained"] for part in outer.values()),
        "phase": last["name"],
        "flops_per_step": last["flops_per_step"],
        "exact": last["exact"],
        "training_flops": last["flops"],
        "earlier_flops": sum(phase["flops"] or 0 for phase in arm.cost["phases"][:-1]),
        "steps": last["steps"],
        **{key: _mean([s.get(key, 0) for s in spent]) for key in ("seconds", "samples", "tokens")},
        "peak_memory": max(memory, default=None),
        "sampling_calls": done[0]["sampling"]["calls"] if done else None,
        "sampling_seconds": _mean([run["sampling"]["seconds"] / run["sampling"]["clips"] for run in done]),
        "sampling_flops": arm.cost["sampling_flops"],
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _nested(address: str, parts: Mapping[str, Any]) -> bool:
    """Whether a part stands within another one that is listed."""
    return any(address != other and address.startswith(f"{other}.") for other in parts)


def _budget(study: Study, runs: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The proof of the match: what every run spent in the phase that is compared, as its journal counted it, against
    the budget, which is the first arm's."""
    plans = {arm.name: arm.cost["phases"][-1] for arm in study.arms}
    aim = plans[study.arms[0].name]
    told = []
    for run in runs:
        plan = plans[run["arm"]]
        steps = max((r["step"] for r in _journal(folder, run) if r["phase"] == plan["name"]), default=0)
        flops = steps * plan["flops_per_step"] if plan["flops_per_step"] is not None else None
        spent, budget = (steps, aim["steps"]) if study.match == "steps" else (flops, aim["flops"])
        share = spent / budget if spent is not None and budget else None
        told.append(
            {"arm": run["arm"], "seed": run["seed"], "steps": steps, "flops_per_step": plan["flops_per_step"],
             "flops": flops, "share": share, "matched": share is not None and abs(share - 1) <= MATCHED,
             "reused": bool(run["spent"].get(plan["name"], {}).get("reused"))}
        )  # fmt: skip
    return told


def _settings(study: Study) -> list[dict[str, Any]]:
    """Where the arms' recipes differ: by dotted key, what each says; a key that an arm lacks is left out for it."""
    own = {arm.name: arm.recipe.without("training.seed").data for arm in study.arms}
    flat = {arm: _flat({key: said for key, said in data.items() if key != "name"}) for arm, data in own.items()}
    keys = dict.fromkeys(key for said in flat.values() for key in said)
    told = [{"key": key, "values": {arm: said[key] for arm, said in flat.items() if key in said}} for key in keys]
    return [row for row in told if len(row["values"]) < len(flat) or len({repr(v) for v in row["values"].values()}) > 1]


def _flat(said: Any, at: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; a part that is a word stands under its `type`, as a mapping has it."""
    if isinstance(said, Mapping):
        return {k: v for key, one in said.items() for k, v in _flat(one, f"{at}.{key}" if at else str(key)).items()}
    if isinstance(said, list) and any(isinstance(one, Mapping) for one in said):
        return {k: v for i, one in enumerate(said) for k, v in _flat(one, f"{at}.{i}").items()}
    return {f"{at}.type" if at in PARTS and isinstance(said, str) else at: said}


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
                    {"arm": key[0], "seed": key[1], "phase": key[2], "name": name, "x": [], "flops": [],
                     "seconds": [], "y": [], "reused": bool(record.get("reused"))},
                )  # fmt: skip
                curve["x"].append(record["step"])
                curve["flops"].append(record["step"] * per_step)
                curve["seconds"].append(record["seconds"])
                curve["y"].append(record[name])
    return list(curves.values())


def _videos(runs: Sequence[Mapping[str, Any]], folder: Path, show: int) -> list[dict[str, Any]]:
    """The shown clips: the first ones of the split, never picked; ground truth first, then every arm's first seed."""
    kept = folder / "scores" / "references.json"
    if not kept.exists():
        return []
    truth = read_json(kept)
    prompts = truth["prompts"] or [f"clip {i}" for i in range(len(truth["videos"]))]
    shown = [
        {"prompt": prompts[i], "arm": "ground truth", "seed": None, "clip": i, "file": file, "right": {}}
        for i, file in enumerate(truth["videos"][:show])
    ]
    for mine in _by_arm(runs).values():
        run = mine[0]
        for i, file in enumerate(run["videos"][:show]):
            right = run["right"][i] if i < len(run["right"]) else {}
            shown.append(
                {"prompt": prompts[i], "arm": run["arm"], "seed": run["seed"], "clip": i, "file": file, "right": right}
            )
    return shown


def _shared(study: Study, runs: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Phases that several runs took from one training."""
    costs = {arm.name: {phase["name"]: phase for phase in arm.cost["phases"]} for arm in study.arms}
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for phase in read_json(folder / run["run"] / "run.json")["phases"]:
            spent, cost = run["spent"].get(phase["name"], {}), costs[run["arm"]].get(phase["name"], {})
            entry = found.setdefault(
                phase["address"],
                {"phase": phase["name"], "address": phase["address"], "steps": phase["steps"],
                 "flops": cost.get("flops"), "seconds": spent.get("seconds"), "runs": []},
            )  # fmt: skip
            entry["runs"].append({"arm": run["arm"], "seed": run["seed"]})
    return [entry for entry in found.values() if len(entry["runs"]) > 1]
