"""Write the report of a study again, from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(folder: Annotated[Path, typer.Argument(help="A folder that `compare` has written.")]) -> None:
    from mutoscope.benchmarks.reporting.page import write_report
    from mutoscope.core.errors import InputError
    from mutoscope.registry.runs import read_json

    results = folder / "results.json"
    if not results.is_file():
        raise InputError(f"{folder} has no results.json: run `mutoscope compare` into it first")
    write_report(folder / "report.html", read_json(results))
    typer.echo(folder / "report.html")
