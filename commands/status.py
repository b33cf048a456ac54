"""Show how far a run or a study is.

Of a run: its phases with steps and losses, its newest checkpoint and whether it verifies, and who works in its folder.
Of a study: the same in a grid of arms and seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def run(
    folder: Annotated[Path, typer.Argument(help="The folder of a run or of a study.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from mutoscope.benchmarks.standing import run_standing, study_standing
    from mutoscope.commands.output import show_json
    from mutoscope.core.errors import InputError

    if (folder / "study.json").is_file():
        said = study_standing(folder)
        (show_json if json else _show_study)(said)
    elif (folder / "run.json").is_file():
        said = run_standing(folder)
        (show_json if json else _show_run)(said)
    else:
        raise InputError(f"{folder} is neither a run nor a study: it has no run.json and no study.json")


def _show_run(said: dict[str, Any]) -> None:
    from mutoscope.commands.output import show

    typer.echo(f"{said['name']}, seed {said['seed']}: {said['state']}{_user(said)}")
    rows = [
        {
            "phase": phase["name"],
            "step": f"{phase['step']}/{phase['steps']}",
            "loss": phase["loss"],
            "seconds": phase["seconds"],
            "": "taken from another run" if phase["reused"] else "",
        }
        for phase in said["phases"]
    ]
    show(rows, ("phase", "step", "loss", "seconds", ""), as_json=False)
    checkpoint = said["checkpoint"]
    typer.echo(f"newest checkpoint that verifies: {checkpoint['name'] or 'none'}")
    for problem in checkpoint["problems"]:
        typer.echo(problem)


def _show_study(said: dict[str, Any]) -> None:
    from mutoscope.commands.output import show

    typer.echo(f"{said['title']}: {said['done']} of {len(said['runs'])} runs scored{_user(said)}")
    arms = list(dict.fromkeys(one["arm"] for one in said["runs"]))
    seeds = list(dict.fromkeys(one["seed"] for one in said["runs"]))
    grid = {(one["arm"], one["seed"]): one["said"] for one in said["runs"]}
    rows = [{"arm": arm, **{f"seed {seed}": grid.get((arm, seed), "") for seed in seeds}} for arm in arms]
    show(rows, ("arm", *(f"seed {seed}" for seed in seeds)), as_json=False)
    for one in said["runs"]:
        if one["error"]:
            typer.echo(f"failed: {one['arm']}, seed {one['seed']}: {one['error']}")
    typer.echo(said["report"] or "no report yet: the same `mutoscope compare` command goes on")


def _user(said: dict[str, Any]) -> str:
    return f"; in use by {said['in_use']}" if said["in_use"] else ""
