"""List the plugins: what each offers, and why a broken one is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from mutoscope.commands.output import show
    from mutoscope.registry.catalog import Catalog

    catalog = Catalog.load(plugin or [])
    rows = [
        {
            "plugin": loaded.name,
            "version": loaded.version,
            "origin": loaded.origin,
            "status": "works",
            "offers": [f"{part.role} {part.name}" for part in loaded.offered],
        }
        for loaded in catalog.plugins
    ]
    rows += [
        {
            "plugin": failed.name,
            "version": failed.version,
            "origin": failed.origin,
            "status": f"failed to {failed.stage}: {failed.reason}",
            "offers": [],
        }
        for failed in catalog.failures
    ]
    show(rows, ("plugin", "version", "status", "offers"), json)
