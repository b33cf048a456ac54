"""From the runs of a study to `results.json`: cells with intervals, differences with verdicts, curves, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mutoscope.benchmarks import aggregates, statistics
from mutoscope.benchmarks.matching import Arm
from mutoscope.benchmarks.reporting.words import headline, short, signed
from mutoscope.benchmarks.study import Study
from mutoscope.core.errors import InputError
from mutoscope.core.storage.journal import read_journal
from mutoscope.registry.recipe import PARTS
from mutoscope.registry.runs import read_json

FORMAT = 2
"""Since 2 with budgets of any kind, hypotheses, what lies across metrics, and ladders."""
CURVES = ("loss", "learner.loss", "discriminator.loss", "gradient_norm", "learner.gradient_norm")
"""Records of the journal that the report draws."""
MATCHED = {"seconds": 0.1}
"""How far, as a share of the budget, what an arm spent may lie from it, by kind; a hundredth where none is said."""
CADENCE = ("checkpoint_every", "log_every", "keep", "log", "cache")
"""Settings that change nothing of what is learned, and so are no difference between recipes."""


def tabulate(
    study: Study, work: Mapping[str, Any], folder: Path, command: str = "", mix: bool = False
) -> dict[str, Any]:
    """The content of `results.json`. work: what `run_study` gave. mix: put scores that were not measured alike into one
    table. Raises InputError on such scores else: two fingerprints do not share a table."""
    runs = [run for run in work["runs"] if run["status"] == "done"]
    failures = [{k: run[k] for k in ("arm", "seed", "error")} for run in work["runs"] if run["status"] != "done"]
    rows = [{"arm": run["arm"], "seed": run["seed"], **row} for run in runs for row in run["rows"]]
    fingerprints, mixed = _fingerprints([*rows, *work["references"]], mix)
    cells, differences = _cells(runs), _differences(runs, study.baselines)
    trained = [run for run in runs if not study.arm(run["arm"]).videos] or runs
    seeds = min((len(mine) for mine in _by_arm(trained).values()), default=0)
    kind = statistics.kind(seeds)
    better = {metric: way for run in runs for metric, way in run["better"].items()}
    arms = [_arm(study, arm, work["runs"], folder) for arm in study.arms]
    points = _points(runs)
    return {
        "format": FORMAT,
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "kind": kind,
        "sentence": _sentence(kind, seeds, study.protocol.clips, cells, differences, failures),
        "arms": arms,
        "rows": rows,
        "cells": cells,
        "references": work["references"],
        "differences": differences,
        "across": aggregates.across(aggregates.normalised(rows, work["references"], better)),
        "hypotheses": aggregates.judged(
            study.hypotheses, [arm["name"] for arm in arms], cells, differences, work["references"], failures
        ),
        "on the way": points,
        "stability": aggregates.stability(points, better),
        "fit": _fit(study, rows, better),
        "notes": list(study.notes),
        "aim": _said_budget(study),
        "over": study.budget.over if study.budget else "phase",
        "ladders": work.get("ladders", []),
        "time": _time(work),
        "budget": _budget(study, runs, folder),
        "shared": _shared(study, runs, folder),
        "settings": _settings(study),
        "curves": _curves(study, runs, folder),
        "videos": _videos(runs, folder, study.show),
        "protocol": {**asdict(study.protocol), "match": study.match, "seeds": list(study.seeds)},
        "fingerprints": fingerprints,
        "mixed": mixed,
        "environment": read_json(folder / trained[0]["run"] / "run.json")["environment"] if runs else {},
        "failures": failures,
    }


def _time(work: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of this call by kind of work; `rest` is what is none of it: finding, assembling, writing."""
    told = {"whole": work.get("clock", {}).get("whole", 0.0)}
    for kind in ("training", "sampling", "scoring"):
        told[kind] = sum(run.get("clock", {}).get(kind, 0.0) for run in work["runs"])
    told["floors and ceilings"] = work.get("clock", {}).get("floors and ceilings", 0.0)
    return {**told, "rest": max(0.0, told["whole"] - sum(v for k, v in told.items() if k != "whole"))}


def _said_budget(study: Study) -> float | None:
    """What every arm may spend, where the study says it and not its first arm."""
    return study.budget.amount if study.budget else None


def _fingerprints(rows: Sequence[Mapping[str, Any]], mix: bool) -> tuple[dict[str, str], list[str]]:
    """The one fingerprint of every metric, or all where mixing is asked for; and the metrics that are mixed."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        by = found.setdefault(row["metric"], {}).setdefault(row["fingerprint"], [])
        by.append(str(row.get("arm") or row.get("name") or "a run"))
    mixed = [metric for metric, prints in found.items() if len(prints) > 1]
    if mixed and not mix:
        prints = found[mixed[0]]
        said = " and ".join(f"{print} ({', '.join(dict.fromkeys(arms))})" for print, arms in sorted(prints.items()))
        raise InputError(
            f"{mixed[0]}: scored in two ways, {said}; two fingerprints do not share a table unless told to with --mix"
        )
    return {metric: ", ".join(sorted(prints)) for metric, prints in found.items()}, mixed


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
            cell["iqm"] = statistics.interquartile_mean([found["value"] for found in rows])
            cell["bootstrap"] = list(statistics.bootstrap(clips)) if len(clips) == len(mine) else None
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


def _differences(runs: Sequence[Mapping[str, Any]], baselines: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every pair of arms, or every arm against the baselines, on every metric that both have, with Holm's correction
    within a metric; beside each the chance that a run of the second is better."""
    arms = _by_arm(runs)
    told = []
    for name in dict.fromkeys(row["metric"] for run in runs for row in run["rows"]):
        found, pairs = [], []
        for a, b in _pairs(list(arms), baselines):
            seeds = sorted({run["seed"] for run in arms[a]} & {run["seed"] for run in arms[b]})
            one, other = ([_clips(arms[arm], seed, name) for seed in seeds] for arm in (a, b))
            sets = all(values is not None and len(values) == 1 for values in (*one, *other))
            alike = all(x is not None and y is not None and len(x) == len(y) for x, y in zip(one, other, strict=True))
            # A baseline of videos has no seeds of its own to be paired by.
            if seeds and alike and (not sets or len(seeds) >= statistics.FEW):
                found.append(statistics.difference(one, other))  # type: ignore[arg-type]
                pairs.append((a, b))
        higher = next((run["better"][name] for run in runs if name in run["better"]), "higher") == "higher"
        for (a, b), d in zip(pairs, statistics.with_holm(found, pairs, higher), strict=True):
            means = [
                [row["value"] for run in arms[arm] for row in run["rows"] if row["metric"] == name] for arm in (a, b)
            ]
            chance = statistics.probability_of_improvement(*(means if higher else means[::-1]))
            told.append({"a": a, "b": b, "metric": name, **asdict(d), "improvement": chance})
    return told


def _pairs(arms: Sequence[str], baselines: Sequence[str]) -> list[tuple[str, str]]:
    """(a, b) of every comparison that is made."""
    if not baselines:
        return list(combinations(arms, 2))
    return [(a, b) for a in baselines if a in arms for b in arms if b not in baselines or arms.index(b) > arms.index(a)]


def _points(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every run's scores at shares of its budget, the end among them; empty where none were taken on the way."""
    told = []
    for run in runs:
        for point in run.get("on the way", ()):
            for row in point["rows"]:
                told.append(
                    {"arm": run["arm"], "seed": run["seed"], "share": point["share"], "step": point["step"],
                     "metric": row["metric"], "value": row["value"], "low": row["low"], "high": row["high"]}
                )  # fmt: skip
        if run.get("on the way"):
            told += [
                {"arm": run["arm"], "seed": run["seed"], "share": 1.0, "step": None, "metric": row["metric"],
                 "value": row["value"], "low": row["low"], "high": row["high"]}
                for row in run["rows"]
            ]  # fmt: skip
    return told


def _fit(study: Study, rows: Sequence[Mapping[str, Any]], better: Mapping[str, str]) -> dict[str, Any] | None:
    """The power law of a scaling study over training FLOPs; what is wrong in words where there is none."""
    if study.fit is None:
        return None
    compute = {arm.name: arm.phase["flops"] for arm in study.arms if not arm.videos}
    told = [
        {
            "arm": r["arm"],
            "compute": compute[r["arm"]],
            "error": 1 - r["value"] if better[r["metric"]] == "higher" else r["value"],
        }
        for r in rows
        if r["metric"] == study.fit and compute.get(r["arm"])
    ]
    try:
        law = aggregates.scaling([(p["compute"], p["error"]) for p in told])
    except ValueError as few:
        return {"metric": study.fit, "points": told, "law": None, "problem": str(few)}
    return {"metric": study.fit, "points": told, "law": law, "problem": ""}


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
    if arm.videos:
        nothing = dict.fromkeys(
            ("parameters", "all_parameters", "trained", "flops_per_step", "training_flops", "earlier_flops", "steps",
             "seconds", "samples", "tokens", "peak_memory", "sampling_calls", "sampling_seconds", "sampling_flops")
        )  # fmt: skip
        given = {"name": arm.name, "videos": str(arm.videos), "runs": [], "parts": {}, "weights": {}}
        return {**given, **nothing, "phase": "", "exact": True}
    last, parts = arm.phase, arm.cost["parts"]
    spent = [run["spent"].get(last["name"], {}) for run in done]
    outer = {address: part for address, part in parts.items() if not _nested(address, parts)}
    memory = [record["peak_memory"] for run in done for record in _journal(folder, run)[-1:]]
    denoisers = [part["parameters"] for address, part in outer.items() if address.rpartition(".")[2] == "denoiser"]
    earlier = [phase["flops"] for phase in arm.cost["phases"][:-1]]
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
        "earlier_flops": None if None in earlier else sum(earlier),
        "steps": last["steps"],
        **{key: _mean([s.get(key, 0) for s in spent]) for key in ("seconds", "samples", "tokens")},
        "peak_memory": max(memory, default=None),
        "sampling_calls": done[0]["sampling"]["calls"] if done else None,
        "sampling_seconds": _mean([run["sampling"]["seconds"] / run["sampling"]["clips"] for run in done]),
        "sampling_flops": arm.cost["sampling_flops"],
    }


def _mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return float(np.mean(values)) if values else None


def _nested(address: str, parts: Mapping[str, Any]) -> bool:
    """Whether a part stands within another one that is listed."""
    return any(address != other and address.startswith(f"{other}.") for other in parts)


def _budget(study: Study, runs: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The proof of the match: what every run spent in the phase that is compared, as its journal counted it, against
    the budget; what its earlier phases spent stands beside, and counts where the budget is over all of a run."""
    trained = [arm for arm in study.arms if not arm.videos]
    whole = study.budget is not None and study.budget.over == "all"
    told = []
    for run in runs:
        arm = study.arm(run["arm"])
        if arm.videos:
            continue
        plan, spent = arm.phase, run["spent"].get(arm.phase["name"], {})
        steps = max((r["step"] for r in _journal(folder, run) if r["phase"] == plan["name"]), default=0)
        flops = steps * plan["flops_per_step"] if plan["flops_per_step"] is not None else None
        earlier = [phase["flops"] for phase in arm.cost["phases"][:-1]]
        before = None if None in earlier else sum(earlier)
        kind = arm.aim.kind if arm.aim else "flops" if study.match == "as trained" else study.match
        used = {"steps": steps, "flops": flops, **{key: spent.get(key) for key in ("samples", "tokens", "seconds")}}[
            kind
        ]
        if whole and used is not None:
            used += (before or 0) if kind == "flops" else sum(p["steps"] for p in arm.cost["phases"][:-1])
        aim = arm.aim.amount if arm.aim else trained[0].phase["steps" if study.match == "steps" else "flops"]
        share = used / aim if used is not None and aim else None
        told.append(
            {"arm": run["arm"], "seed": run["seed"], "kind": kind, "steps": steps,
             "flops_per_step": plan["flops_per_step"], "flops": flops, "earlier_flops": before,
             **{key: spent.get(key) for key in ("samples", "tokens", "seconds")}, "share": share,
             "matched": share is not None and abs(share - 1) <= max(MATCHED.get(kind, 0.01), _grain(arm, aim, kind)),
             "reused": bool(spent.get("reused"))}
        )  # fmt: skip
    return told


def _grain(arm: Arm, aim: float | None, kind: str) -> float:
    """A budget is spent in whole steps: of a short run one step may be more than a hundredth."""
    return 0.0 if arm.aim is None or not aim or kind != "seconds" else 1 / max(1, arm.phase["steps"] or 1)


def _settings(study: Study) -> list[dict[str, Any]]:
    """Where the arms' recipes differ: by dotted key, what each says; a key that an arm lacks is left out for it."""
    own = {arm.name: arm.recipe.without("training.seed").data for arm in study.arms if not arm.videos}
    flat = {arm: _flat({key: said for key, said in data.items() if key != "name"}) for arm, data in own.items()}
    keys = dict.fromkeys(key for said in flat.values() for key in said)
    told = [{"key": key, "values": {arm: said[key] for arm, said in flat.items() if key in said}} for key in keys]
    told = [row for row in told if row["key"].rpartition(".")[2] not in CADENCE]
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
    trained = [arm for arm in study.arms if not arm.videos]
    costs = {arm.name: {p["name"]: p["flops_per_step"] for p in arm.cost["phases"]} for arm in trained}
    curves: dict[tuple[str, int, str, str], dict[str, Any]] = {}
    for run in runs:
        for record in _journal(folder, run) if run["arm"] in costs else ():
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
    trained = [arm for arm in study.arms if not arm.videos]
    costs = {arm.name: {phase["name"]: phase for phase in arm.cost["phases"]} for arm in trained}
    found: dict[str, dict[str, Any]] = {}
    for run in (run for run in runs if run["arm"] in costs):
        for phase in read_json(folder / run["run"] / "run.json")["phases"]:
            spent, cost = run["spent"].get(phase["name"], {}), costs[run["arm"]].get(phase["name"], {})
            entry = found.setdefault(
                phase["address"],
                {"phase": phase["name"], "address": phase["address"], "steps": phase["steps"],
                 "flops": cost.get("flops"), "seconds": spent.get("seconds"), "runs": []},
            )  # fmt: skip
            entry["runs"].append({"arm": run["arm"], "seed": run["seed"]})
    return [entry for entry in found.values() if len(entry["runs"]) > 1]
