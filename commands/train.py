"""Train a recipe, or continue its run.

The run's folder is printed last. The same command again continues where it stopped, or says that it is done.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings in its place: denoiser.depth=4")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/NAME-HASH8.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default CUDA where there is one.")] = None,
) -> None:
    from mutoscope.core.errors import RunInUse
    from mutoscope.core.storage.lock import holder
    from mutoscope.registry.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])  # before what imports torch: a typo is told at once
    if out is not None and (who := holder(out)) and not os.environ.get("RANK"):
        raise RunInUse(f"{out} is in use by {who}; wait for it, or choose another folder with --out")

    from mutoscope.core.training.distribution import leave, rank
    from mutoscope.core.training.progress import progress
    from mutoscope.registry.catalog import Catalog
    from mutoscope.registry.runs import train_recipe

    catalog = Catalog.load([*(plugin or []), *loaded.plugins])
    try:
        folder, _, position = train_recipe(loaded, catalog, out, device, progress())
    finally:
        leave()
    if rank() > 0:
        return
    seconds = sum(spent["seconds"] for spent in position.spent.values())
    typer.echo(f"trained in {seconds:.0f} s; the run is in", err=True)
    typer.echo(folder)
