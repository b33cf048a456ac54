"""Count a recipe's parameters, FLOPs, tokens and memory, without allocating weights.

FLOPs are 2 x multiply-accumulates. `parameters` are learned ones, frozen or not; `trained` those its phases update.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings in its place: denoiser.depth=4")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from mutoscope.commands.output import count, show, show_json
    from mutoscope.registry.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])  # before what imports torch: a typo is told at once

    from mutoscope.registry.catalog import Catalog
    from mutoscope.registry.describe import describe

    catalog = Catalog.load([*(plugin or []), *loaded.plugins])
    told = describe(loaded, catalog)
    if json:
        show_json(told)
        return
    rows = [
        {"part": address, "type": part["type"]} | {k: count(part[k]) for k in ("parameters", "trained", "flops")}
        for address, part in told["parts"].items()
    ]
    show(rows, ("part", "type", "parameters", "trained", "flops"), as_json=False)
    typer.echo(f"tokens per clip {told['tokens']}")
    for phase in told["phases"]:
        typer.echo(f"{phase['name']}: {phase['steps']} steps of {count(phase['flops_per_step'])} FLOPs")
    typer.echo(f"sampling {count(told['sampling_flops'])} FLOPs per clip")
    if told["cache"]:
        typer.echo(f"cache {told['cache'] / 2**20:.1f} MiB of keys and values per clip")
    for word in ("published", "counted"):
        if told.get(word):
            typer.echo(f"{word}: {told[word]}")
