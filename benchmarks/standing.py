"""How far runs and studies are, as their folders say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mutoscope.core.storage.checkpoint import STATE, listed, newest
from mutoscope.core.storage.journal import read_journal
from mutoscope.core.storage.lock import holder
from mutoscope.registry.runs import read_json


def run_standing(folder: Path) -> dict[str, Any]:
    """A run: `state` is done, running, stopped (the same command goes on) or new; phases with the last step, loss and
    seconds that the journal has; the newest checkpoint that verifies, and what was passed over; who works in it.
    Raises InputError on a folder that is no run."""
    said = read_json(folder / "run.json")
    journal = folder / "metrics.jsonl"
    last = {record["phase"]: record for record in (read_journal(journal) if journal.is_file() else [])}
    problems: list[str] = []
    found = newest(folder / "checkpoints", report=problems.append)
    done = found is not None and bool(read_json(found / STATE)["done"])
    user = holder(folder)
    started = bool(last) or bool(listed(folder / "checkpoints"))
    phases = []
    for phase in said["phases"]:
        record = last.get(phase["name"], {})
        phases.append(
            {
                "name": phase["name"],
                "step": record.get("step", 0),
                "steps": phase["steps"],
                "loss": record.get("loss", record.get("learner.loss")),
                "seconds": record.get("seconds"),
                "reused": bool(record.get("reused")),
            }
        )
    return {
        "kind": "run",
        "folder": str(folder),
        "name": said["name"],
        "seed": said["seed"],
        "state": "running" if user else "done" if done else "stopped" if started else "new",
        "phases": phases,
        "checkpoint": {
            "name": found.name if found else None,
            "step": int(found.name.rpartition("-")[2]) if found else None,
            "verified": found is not None,
            "problems": problems,
        },
        "in_use": user,
    }


def study_standing(folder: Path) -> dict[str, Any]:
    """A study: for every arm and seed its run's standing, whether it is scored, and, from the last report, its error.
    Raises InputError on a folder that is no study."""
    said = read_json(folder / "study.json")
    results = folder / "results.json"
    failed = {(f["arm"], f["seed"]): f["error"] for f in read_json(results)["failures"]} if results.is_file() else {}
    runs = []
    for one in said["runs"]:
        place = folder / one["run"]
        standing = run_standing(place) if (place / "run.json").is_file() else None
        scored = (folder / "scores" / f"{one['scores']}.json").is_file()
        noted = folder / "scores" / f"{one['scores']}.error.json"
        error = read_json(noted)["error"] if noted.is_file() else None
        error = error or (None if scored else failed.get((one["arm"], one["seed"])))
        runs.append(
            {
                "arm": one["arm"],
                "seed": one["seed"],
                "run": str(place),
                "scored": scored,
                "error": error,
                "said": _said(standing, scored, error),
                "standing": standing,
            }
        )
    report = folder / "report.html"
    return {
        "kind": "study",
        "folder": str(folder),
        "name": said["name"],
        "title": said["title"],
        "runs": runs,
        "done": sum(run["scored"] for run in runs),
        "in_use": holder(folder),
        "report": str(report) if report.is_file() else None,
    }


def _said(standing: dict[str, Any] | None, scored: bool, error: str | None) -> str:
    """A run in a few words."""
    if scored:
        return "scored"
    if error is not None:
        return "failed"
    if standing is None:
        return "waiting"
    if standing["state"] == "done":
        return "trained"
    current = next((p for p in standing["phases"] if p["step"] < (p["steps"] or 0)), standing["phases"][-1])
    return f"{standing['state']}: {current['name']} {current['step']}/{current['steps']}"
