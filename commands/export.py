"""Save a run as a pretrained folder: a folder per part, of safetensors and JSON, which `from_pretrained` loads.

It needs neither the recipe nor the data. The folder of a part can be the `weights` of that part in a recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must not be there yet.")],
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
) -> None:
    from mutoscope.registry.pretrained import save_pretrained
    from mutoscope.registry.runs import load

    typer.echo(save_pretrained(load(folder, device="cpu", plugins=plugin or []), out))
