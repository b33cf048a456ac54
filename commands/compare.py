"""Run a study, swap parts of a recipe, or compare finished runs.

`mutoscope compare quickstart` runs a study. `mutoscope compare text-to-video --swap denoiser=dit,unet3d --seeds 3`
swaps parts of a recipe by word, at the training FLOPs of the first. `mutoscope compare RUN RUN` scores finished runs.
The report's path is printed last. Interrupted, the same command goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    what: Annotated[
        list[str], typer.Argument(help="A study, a recipe with --swap, or run folders; then settings, as key=value.")
    ],
    swap: Annotated[list[str] | None, typer.Option(help="ROLE=A,B: parts to compare.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N - 1.")] = None,
    clips: Annotated[int | None, typer.Option(min=2, help="Clips to score per run.")] = None,
    split: Annotated[str | None, typer.Option(help="The split to score.")] = None,
    out: Annotated[Path | None, typer.Option(help="The comparison's folder; by default runs/NAME-HASH8.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default CUDA where there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    from mutoscope.benchmarks.comparison import compare
    from mutoscope.benchmarks.study import choose_study
    from mutoscope.commands.output import show_json
    from mutoscope.core.training.progress import progress

    named = [word for word in what if "=" not in word]
    overrides = [word for word in what if "=" in word]
    study = choose_study(named, swap or [], overrides, plugin or [], seeds, clips, split)
    folder = out or study.default_folder()
    results = compare(study, folder, progress(), device)
    if json:
        show_json(results)
        return
    print_table(results)
    typer.echo(folder / "report.html")
    if results["failures"]:
        raise typer.Exit(1)


def print_table(results: dict) -> None:
    """Metrics by arm with intervals, floors and ceilings beside them, then the verdict."""
    from mutoscope.commands.output import show

    arms = [arm["name"] for arm in results["arms"]]
    cells = {(cell["arm"], cell["metric"]): cell for cell in results["cells"]}
    rows = []
    for metric in dict.fromkeys(cell["metric"] for cell in results["cells"]):
        row = {"metric": metric}
        for arm in arms:
            if cell := cells.get((arm, metric)):
                row[arm] = f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
        for word in ("floor", "ceiling"):
            found = [r for r in results["references"] if r["metric"] == metric and r["kind"] == word]
            if found:
                lower = next(c["better"] for c in results["cells"] if c["metric"] == metric) == "lower"
                best = (min if lower == (word == "floor") or lower else max)(found, key=lambda r: r["value"])
                row[word] = f"{best['value']:.3f} {best['name']}"
        rows.append(row)
    show(rows, ("metric", *arms, "floor", "ceiling"), as_json=False)
    costs = [
        {
            "arm": arm["name"],
            "parameters": f"{arm['parameters']:,}",
            "training FLOPs": f"{arm['training_flops']:.3g}",
            "steps": arm["steps"],
            "seconds": f"{arm['seconds']:.0f}",
        }
        for arm in results["arms"]
    ]
    show(costs, ("arm", "parameters", "training FLOPs", "steps", "seconds"), as_json=False)
    typer.echo(results["sentence"])
