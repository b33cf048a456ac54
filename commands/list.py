"""List the parts there are, of one role or of all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    role: Annotated[str | None, typer.Argument(help="One role: denoiser, sampler, ...")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from mutoscope.commands.output import show
    from mutoscope.core.errors import InputError
    from mutoscope.registry.catalog import Catalog

    catalog = Catalog.load(plugin or [])
    if role is not None and role not in catalog.roles():
        raise InputError(field="role", problem="there is no such role", got=role, allowed=catalog.roles())
    rows = [row for row in catalog.rows() if role in (None, row["role"])]
    show(rows, ("role", "name", "summary", "plugin"), json)
