"""Score a run on a split, by the metrics of its recipe, with intervals; writes `metrics.json` into the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    split: Annotated[str, typer.Option(help="The split to score.")] = "test",
    clips: Annotated[int | None, typer.Option(min=2, help="Clips to score; by default 256, or all.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default CUDA where there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    from mutoscope.benchmarks.scoring import score_run
    from mutoscope.commands.output import show
    from mutoscope.core.training.progress import progress

    scores = score_run(folder, split, clips, plugin or [], device, progress())
    rows = [{"metric": name, **said} for name, said in scores.items()]
    show(rows, ("metric", "value", "low", "high", "n", "split", "fingerprint"), json, content=scores)
