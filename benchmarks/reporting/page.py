"""The report of a comparison: one HTML file, for the screen, paper and a phone, that loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mutoscope.benchmarks.reporting import figures, words
from mutoscope.benchmarks.reporting.tables import as_csv, as_latex, as_markdown
from mutoscope.core.storage.atomic import write_text

TEMPLATE, STYLE, SCRIPT = "report.html.jinja", "report.css", "report.js"
EMBEDDED = 24 << 20
"""Bytes of video that the page carries itself; where there are more, it points to the files beside it."""
KINDS = {"demonstration": "Demonstration", "exploratory": "Exploratory", "study": "Study"}


def write_report(path: Path, results: Mapping[str, Any]) -> None:
    """Writes the report of `results.json` to a file; the videos are looked for beside it."""
    write_text(path, render(results, path.parent))


def render(results: Mapping[str, Any], folder: Path) -> str:
    """The report as HTML. folder: what the videos' paths are relative to."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        name: getattr(words, name)
        for name in ("short", "signed", "quantity", "size", "whole", "duration", "setting")
    }  # fmt: skip
    arms = [arm["name"] for arm in results["arms"]]
    return environment.from_string(_text(TEMPLATE)).render(
        results=results,
        kind=KINDS[results["kind"]],
        style=Markup(_text(STYLE)),
        script=Markup(_text(SCRIPT)),
        colours={arm: i % figures.ARMS for i, arm in enumerate(arms)},
        arrows=words.ARROWS,
        table=_table(results),
        framing=_framing(results),
        by_seed=_by_seed(results),
        parts=_parts(results),
        prompts=_prompts(results, folder),
        figures={
            "scores": Markup(figures.scores(results)),
            "differences": Markup(figures.differences(results)),
            "curves": Markup(figures.curves(results)),
            "earlier": Markup(figures.earlier_curves(results)),
            "pareto": Markup(figures.pareto(results)),
            "way": Markup(figures.on_the_way(results)),
            "fit": Markup(figures.fit(results)),
            "across": Markup(figures.across(results)),
        },
        downloads=_downloads(results),
        bases=list(dict.fromkeys(cell["basis"] for cell in results["cells"])),
        unreliable=any(not row["reliable"] for row in (*results["cells"], *results["references"])),
    )


def _downloads(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Files that the page carries itself, as addresses that hold their content."""
    made = (
        ("scores.csv", "text/csv", as_csv(results), "every score, CSV"),
        ("table.tex", "application/x-tex", as_latex(results), "the table, LaTeX"),
        ("table.md", "text/markdown", as_markdown(results), "the table, Markdown"),
    )
    name = results["name"]
    return [
        {
            "file": f"{name}-{file}",
            "said": said,
            "source": f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}",
        }
        for file, kind, text, said in made
    ]


def _text(name: str) -> str:
    return files("mutoscope.benchmarks.reporting").joinpath(name).read_text(encoding="utf-8")


def _table(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per metric: the arms' cells, the floor to clear and the ceiling that the autoencoder leaves."""
    rows = []
    for metric in dict.fromkeys(cell["metric"] for cell in results["cells"]):
        cells = {cell["arm"]: cell for cell in results["cells"] if cell["metric"] == metric}
        first = next(iter(cells.values()))
        framing = [r for r in results["references"] if r["metric"] == metric]
        rows.append(
            {
                "metric": metric,
                "better": first["better"],
                "split": first["split"],
                "cells": cells,
                "floor": words.best([r for r in framing if r["kind"] == "floor"], first["better"]),
                "ceiling": words.worst([r for r in framing if r["kind"] == "ceiling"], first["better"]),
            }
        )
    return rows


def _framing(results: Mapping[str, Any]) -> dict[str, Any]:
    """Every floor and ceiling, by metric."""
    names = {r["name"]: r["kind"] for r in results["references"]}
    metrics = list(dict.fromkeys(r["metric"] for r in results["references"]))
    values = {(r["name"], r["metric"]): r for r in results["references"]}
    return {
        "names": [{"name": name, "kind": kind} for name, kind in names.items()],
        "rows": [{"metric": m, "cells": [values.get((name, m)) for name in names]} for m in metrics],
    }


def _by_seed(results: Mapping[str, Any]) -> dict[str, Any]:
    """Every row of the results: arms and seeds down, metrics across."""
    metrics = list(dict.fromkeys(row["metric"] for row in results["rows"]))
    values = {(row["arm"], row["seed"], row["metric"]): row for row in results["rows"]}
    runs = list(dict.fromkeys((row["arm"], row["seed"]) for row in results["rows"]))
    return {
        "metrics": metrics,
        "rows": [{"arm": a, "seed": s, "cells": [values.get((a, s, m)) for m in metrics]} for a, s in runs],
    }


def _parts(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of all arms: by address, each arm's word and parameters."""
    addresses = dict.fromkeys(address for arm in results["arms"] for address in arm["parts"])
    return [
        {
            "address": address,
            "arms": [
                {"type": arm["parts"].get(address), "weights": arm["weights"].get(address)} for arm in results["arms"]
            ],
        }
        for address in addresses
    ]


def _prompts(results: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A row per prompt: ground truth, then the arms; each clip's file as the page refers to it."""
    told = results["videos"]
    there = {clip["file"]: folder / clip["file"] for clip in told if (folder / clip["file"]).is_file()}
    embed = sum(path.stat().st_size for path in there.values()) <= EMBEDDED
    rows: dict[int, dict[str, Any]] = {}
    for clip in told:
        source = None
        if path := there.get(clip["file"]):
            source = "data:video/webm;base64," + base64.b64encode(path.read_bytes()).decode() if embed else clip["file"]
        row = rows.setdefault(clip["clip"], {"prompt": clip["prompt"], "clips": []})
        row["clips"].append({**clip, "source": source})
    return [rows[number] for number in sorted(rows)]
