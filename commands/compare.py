"""Run a study, swap parts of a recipe, or compare finished runs.

`mutoscope compare quickstart` runs a study. `mutoscope compare text-to-video --swap denoiser=dit,unet3d --seeds 3`
swaps parts of a recipe by word, at the training FLOPs of the first. `mutoscope compare RUN RUN` scores finished runs,
and folders of another generator's videos beside them. The report's path is printed last. Interrupted, the same command
goes on; with more arms or seeds it does what is new.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

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
    executor: Annotated[str, typer.Option(help="Where runs are worked on: local, ray or slurm.")] = "local",
    mix: Annotated[
        bool, typer.Option("--mix", help="Put scores of different protocols into one table, marked.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    from mutoscope.benchmarks.comparison import compare
    from mutoscope.benchmarks.executors import executor_named
    from mutoscope.benchmarks.study import choose_study
    from mutoscope.commands.output import show_json
    from mutoscope.core.training.progress import progress

    named = [word for word in what if "=" not in word]
    overrides = [word for word in what if "=" in word]
    study = choose_study(named, swap or [], overrides, plugin or [], seeds, clips, split)
    folder, place = out or study.default_folder(), executor_named(executor)
    asked = {
        "swap": swap,
        "seeds": seeds,
        "clips": clips,
        "split": split,
        "out": out,
        "plugin": plugin,
        "device": device,
        "executor": None if executor == "local" else executor,
        "mix": mix or None,
    }
    results = compare(study, folder, progress(), device, _command(what, asked), place, mix)
    if json:
        show_json(results)
    else:
        print_table(results)
        typer.echo(folder / "report.html")
    if results["failures"]:
        raise typer.Exit(1)


def _command(what: list[str], asked: dict[str, Any]) -> str:
    """The command line that does the same again."""
    words = ["mutoscope", "compare", *what]
    for name, value in asked.items():
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [f"--{name}"] if one is True else [f"--{name}", str(one)]
    return shlex.join(words)


def print_table(results: dict[str, Any]) -> None:
    """Metrics by arm with intervals, floors and ceilings beside them, then the verdict."""
    from mutoscope.benchmarks.reporting.words import best, worst
    from mutoscope.commands.output import count, show

    arms = [arm["name"] for arm in results["arms"]]
    cells = {(cell["arm"], cell["metric"]): cell for cell in results["cells"]}
    better = {cell["metric"]: cell["better"] for cell in results["cells"]}
    rows = []
    for metric, way in better.items():
        row = {"metric": metric}
        for arm in arms:
            if cell := cells.get((arm, metric)):
                mark = "" if cell["reliable"] else " (unreliable)"
                row[arm] = f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]{mark}"
        framing = [r for r in results["references"] if r["metric"] == metric]
        for word, choose in (("floor", best), ("ceiling", worst)):
            if found := choose([r for r in framing if r["kind"] == word], way):
                row[word] = f"{found['value']:.3f}"
        rows.append(row)
    if rows:
        show(rows, ("metric", *arms, "floor", "ceiling"), as_json=False)
    costs = [
        {
            "arm": arm["name"],
            "parameters": "" if arm["parameters"] is None else f"{arm['parameters']:,}",
            "training FLOPs": count(arm["training_flops"]) if arm["training_flops"] is not None else "not counted",
            "steps": arm["steps"],
            "seconds": "" if arm["seconds"] is None else f"{arm['seconds']:.0f}",
        }
        for arm in results["arms"]
    ]
    show(costs, ("arm", "parameters", "training FLOPs", "steps", "seconds"), as_json=False)
    for one in results["hypotheses"]:
        typer.echo(f"{one['metric']}: {one['better']} better than {one['than']}: {one['verdict']}")
    for failure in results["failures"]:
        typer.echo(f"failed: {failure['arm']}, seed {failure['seed']}: {failure['error']}")
    typer.echo(results["sentence"])
