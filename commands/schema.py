"""Print the JSON schema of recipes, for editors: `mutoscope schema > recipe.schema.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None) -> None:
    from mutoscope.commands.output import show_json
    from mutoscope.registry.catalog import Catalog
    from mutoscope.registry.schema import json_schema

    show_json(json_schema(Catalog.load(plugin or [])))
