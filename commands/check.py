"""Run the contract checks on a plugin: every check of every part that it offers, built small.

Exit code 1 where one fails.
"""

from __future__ import annotations

from typing import Annotated

import typer


def run(
    plugin: Annotated[str, typer.Argument(help="A plugin file, or the name of an installed plugin.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from dataclasses import asdict

    from mutoscope.commands.output import show
    from mutoscope.registry.contracts import check_plugin, find_plugin

    catalog, found = find_plugin(plugin)
    outcomes = list(check_plugin(catalog, found))
    rows = [
        {
            "part": f"{o.role} {o.part}",
            "check": o.check.replace("_", " "),
            "result": "passed" if o.passed else f"failed: {o.said}",
        }
        for o in outcomes
    ]
    show(rows, ("part", "check", "result"), json, content=[asdict(outcome) for outcome in outcomes])
    failed = sum(not outcome.passed for outcome in outcomes)
    if not json:
        typer.echo(f"{found.name}: {len(outcomes) - failed} of {len(outcomes)} checks passed")
    if failed or not outcomes:
        raise typer.Exit(1)
