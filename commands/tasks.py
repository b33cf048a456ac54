"""List what a run can be asked for, and why not the rest. Its weights are not loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a pretrained one.")],
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from dataclasses import asdict

    from mutoscope.commands.output import show
    from mutoscope.registry.tasks import tasks_of

    rows = [asdict(task) for task in tasks_of(folder, plugin or [])]
    told = [row | {"possible": "yes" if row["possible"] else "no"} for row in rows]
    show(told, ("task", "possible", "why"), json, content=rows)
