"""The table of a study for papers and programs: CSV of every score, and Markdown and LaTeX of the cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mutoscope.benchmarks.reporting.words import ARROWS
from mutoscope.core.storage.atomic import write_text

COLUMNS = ("arm", "seed", "metric", "split", "value", "low", "high", "n", "reliable", "fingerprint")
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def write_tables(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes `scores.csv`, `table.md` and `table.tex`."""
    write_text(folder / "scores.csv", as_csv(results))
    write_text(folder / "table.md", as_markdown(results))
    write_text(folder / "table.tex", as_latex(results))


def as_csv(results: Mapping[str, Any]) -> str:
    """A line for every arm, seed and metric; floors and ceilings have no seed."""
    file = io.StringIO()
    table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(results["rows"])
    for row in results["references"]:
        name = f"{row['name']}, {row['arm']}" if row.get("arm") else row["name"]
        table.writerow({**row, "arm": name, "seed": ""})
    return file.getvalue()


def as_markdown(results: Mapping[str, Any]) -> str:
    """Metrics down, arms across, values with their intervals."""
    arms = [arm["name"] for arm in results["arms"]]
    told = [_row("Metric", *arms), _row(*["---"] * (len(arms) + 1))]
    for metric, better, cells in _metrics(results):
        told.append(_row(f"{metric} {ARROWS[better]}", *(_said(cells.get(arm)) for arm in arms)))
    return "\n".join([*told, "", _caption(results), ""])


def as_latex(results: Mapping[str, Any]) -> str:
    r"""The same for `booktabs`."""
    arms = [arm["name"] for arm in results["arms"]]
    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    told = [
        r"\begin{tabular}{l" + "r" * len(arms) + "}",
        r"\toprule",
        _line("Metric", *map(_escaped, arms)),
        r"\midrule",
    ]
    for metric, better, cells in _metrics(results):
        values = []
        for arm in arms:
            c = cells.get(arm)
            values.append(
                "--" if c is None else rf"${c['value']:.3f}$ {{\scriptsize $[{c['low']:.3f}, {c['high']:.3f}]$}}"
            )
        told.append(_line(f"{_escaped(metric)} {arrows[better]}", *values))
    return "\n".join([*told, r"\bottomrule", r"\end{tabular}", f"% {_caption(results)}", ""])


def _metrics(results: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Mapping[str, Any]]]]:
    """Every metric with the way that is good, and the cells by arm."""
    found: dict[str, tuple[str, dict[str, Mapping[str, Any]]]] = {}
    for cell in results["cells"]:
        found.setdefault(cell["metric"], (cell["better"], {}))[1][cell["arm"]] = cell
    return [(metric, better, cells) for metric, (better, cells) in found.items()]


def _said(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    mark = "" if cell["reliable"] else " †"
    return f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]{mark}"


def _caption(results: Mapping[str, Any]) -> str:
    bases = "; ".join(dict.fromkeys(cell["basis"] for cell in results["cells"]))
    clips, split = results["protocol"]["clips"], results["protocol"]["split"]
    seeds = ", ".join(map(str, results["protocol"]["seeds"]))
    mixed = " Scores of different protocols are mixed here." if results.get("mixed") else ""
    return f"{results['title']} ({results['kind']}). Means over seeds {seeds}, {clips} clips each of the split {split}; 95% intervals: {bases}.{mixed}"


def _row(*words: str) -> str:
    return "| " + " | ".join(word.replace("|", r"\|") for word in words) + " |"


def _line(*words: str) -> str:
    return " & ".join(words) + r" \\"


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)
