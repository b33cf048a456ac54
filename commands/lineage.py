"""List the systems of the lineage, 1 to 32 and Sora (0), with the recipes that ship for each and their parts."""

from __future__ import annotations

from typing import Annotated

import typer


def run(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    from mutoscope.commands.output import show
    from mutoscope.registry.lineage import rows

    found = rows()
    shown = [
        {
            **row,
            "number": f"{row['number']:02d}",
            "recipe": row["recipe"] or "none yet",
            "paper": len(row["paper_recipes"]),
        }
        for row in found
    ]
    show(shown, ("number", "system", "year", "recipe", "paper", "parts"), json, content=found)
