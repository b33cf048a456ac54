"""Write the report and the tables of a study again, from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(folder: Annotated[Path, typer.Argument(help="A folder that `compare` has written.")]) -> None:
    from mutoscope.benchmarks.reporting.page import write_report
    from mutoscope.benchmarks.reporting.tables import write_tables
    from mutoscope.benchmarks.tabulate import FORMAT
    from mutoscope.core.errors import InputError
    from mutoscope.registry.runs import read_json

    results = folder / "results.json"
    if not results.is_file():
        raise InputError(f"{folder} has no results.json: run `mutoscope compare` into it first")
    told = read_json(results)
    if told.get("format") != FORMAT:
        raise InputError(f"{results} is of an earlier version; the same `mutoscope compare` command writes it again")
    write_tables(folder, told)
    write_report(folder / "report.html", told)
    typer.echo(folder / "report.html")
