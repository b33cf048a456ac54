"""Every lineage recipe against its untrained self and against itself with its mechanism switched off.

    python -m mutoscope.benchmarks.lineage [NN ...] [--json] [--clips N] [--runs DIR] [--out DIR] [--table FILE]

Trains each recipe and the same with the overrides that `lineage.yaml` has for it, and scores both and the untrained
model on the metric that the recipe names, on the same clips, prompts and noise. Differences are paired by clip. Every
finished row goes into `lineage.json` and `lineage.md` at once; runs and phases are kept in DIR, so that the same
command goes on. Without numbers, the table is rendered from the rows that there are.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mutoscope.benchmarks.comparison import LEARNT_TOGETHER
from mutoscope.benchmarks.evaluation import Protocol, Truth, reconstruct, sample
from mutoscope.benchmarks.lineage_table import (
    ARMS,
    CLIPS,
    COMMAND,
    RESULTS,
    TABLE,
    Entry,
    chosen,
    keep,
    kept_rows,
    line,
    read_table,
)
from mutoscope.benchmarks.statistics import clip_interval, difference
from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import Interrupted, MutoscopeError, RunInUse, WorkError
from mutoscope.core.metric import Material, Metric
from mutoscope.core.model import ROLES, Cascade, Model, stages_of
from mutoscope.core.training.progress import Progress, progress
from mutoscope.core.training.provenance import environment
from mutoscope.registry.assembly import Assembled, assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe, load_recipe
from mutoscope.registry.runs import PHASES, RUNS, recipe_hash, train_recipe

# One row


@dataclass(frozen=True)
class Marks:
    """One arm's score: its value with an interval, and one number per clip of which it is the mean."""

    value: float
    low: float
    high: float
    clips: np.ndarray

    @property
    def cell(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Bench:
    """What rows are worked on with. runs: where run folders and kept phases are."""

    catalog: Catalog
    protocol: Protocol
    runs: Path
    shown: Progress
    device: str | None = None

    def row(self, name: str, entry: Entry) -> dict[str, Any]:
        """Trains, scores and judges one recipe; JSON-able. A training that fails is the row's verdict."""
        recipe, off = load_recipe(name), load_recipe(name, entry.off)
        self.check(recipe, off, entry)
        for one in (recipe, off):
            assemble(one, self.catalog, device="meta")  # what does not fit is said before anything is trained
        told: dict[str, Any] = {
            "system": recipe.name,
            "recipe": recipe_hash(recipe),
            "metric": entry.score,
            "off by": entry.off,
            "without": entry.without,
            "clips": self.protocol.clips,
            "command": command(recipe, self.protocol.clips),
            "environment": {k: v for k, v in environment(self.device or "cpu").items() if k != "argv"}
            | {"processor": processor()},
        }
        marks: dict[str, Marks] = {}
        try:
            for arm, one in (("trained", recipe), ("off", off)):
                self.shown.note(f"{recipe.name}: {arm}")
                made, seconds = self.trained(one)
                told |= {f"{arm} {kind}": spent for kind, spent in seconds.items()}
                if arm == "trained":
                    # All arms are asked for this one's clips, also where what is off is something of the data.
                    judge = Judge.of(made, entry.score, self.protocol)
                    told |= {"parameters": parameters(made), "better": judge.better}
                    marks["untrained"] = judge.marks(untrained(made, self.catalog, entry, self.device))
                marks[arm] = judge.marks(made.model)
            told |= {arm: marks[arm].cell for arm in ARMS} | judged(marks, judge.better)
            return {**told, "found": entry.found}
        except (Interrupted, RunInUse):
            raise
        except MutoscopeError as error:
            return {**told, "verdict": f"FAILED: {' '.join(str(error).split())}", "found": entry.found}

    def check(self, recipe: Recipe, off: Recipe, entry: Entry) -> None:
        """Raises InputError where the recipe does not name the metric, or the overrides change nothing."""
        metric = entry.score.partition(".")[0]
        named = [m if isinstance(m, str) else m["type"] for m in recipe.data.get("metrics", ())]
        if metric not in named:
            raise recipe.problem("metrics", "does not name the metric that the table holds it to", metric, named)
        if recipe_hash(off) == recipe_hash(recipe):
            raise recipe.problem((), "is not changed by what switches its mechanism off", entry.off)

    def trained(self, recipe: Recipe) -> tuple[Assembled, dict[str, float]]:
        """The recipe, trained here or found finished, and the seconds that all its phases took; those of the processor
        too, where all of it was trained in this call."""
        folder = self.runs / f"{recipe.name}-{recipe_hash(recipe)}"
        fresh, started = not folder.exists(), time.process_time()
        _, made, position = train_recipe(recipe, self.catalog, folder, self.device, self.shown, self.runs / PHASES)
        cpu, spent = time.process_time() - started, position.spent.values()
        seconds = {"seconds": sum(one["seconds"] for one in spent)}
        if fresh and not any("reused" in one for one in spent):
            seconds["cpu seconds"] = cpu
        return made, seconds


@dataclass(frozen=True)
class Judge:
    """A metric, and the real clips that every arm of a row is scored on."""

    metric: Metric
    name: str
    dataset: Dataset
    truths: tuple[Truth, ...]
    protocol: Protocol

    @classmethod
    def of(cls, made: Assembled, score: str, protocol: Protocol) -> Judge:
        """For a dotted score of one of the recipe's metrics."""
        metric = next(metric for metric in made.metrics if metric.name == score.partition(".")[0])
        return cls(metric, score, made.dataset, tuple(Truth.by_size(made.dataset, protocol)), protocol)

    @property
    def better(self) -> str:
        return self.metric.better_of(self.name)

    def marks(self, model: Model | Cascade) -> Marks:
        """The score of a model, over all sizes that the clips have. Raises WorkError where the metric does not give it."""
        found = []
        for truth in self.truths:
            video, protocol = self.looked(model, truth), self.protocol
            material = Material(
                video, truth.real, truth.reference, protocol.split, model, self.dataset, protocol.seed
            )  # fmt: skip
            said = {score.name: score for score in self.metric.score(material)}
            if self.name not in said:
                raise WorkError(f"metric {self.metric.name}: gives no {self.name}, but {', '.join(said) or 'nothing'}")
            found.append(said[self.name])
        each = [score.parts if score.clips is None else score.clips for score in found]
        clips = np.concatenate([one for one in each if one is not None])
        cell, first = clip_interval(clips), found[0]
        if len(found) == 1 and first.value is not None and first.low is not None and first.high is not None:
            return Marks(first.value, first.low, first.high, clips)
        return Marks(cell.value, cell.low, cell.high, clips)

    def looked(self, model: Model | Cascade, truth: Truth) -> Tensor:
        """What the metric looks at: samples, a round trip, or, where it asks the model, real clips."""
        real = truth.real.video
        assert isinstance(real, Tensor)
        if self.metric.wants == "model":
            return real
        if self.metric.wants == "reconstruction":
            return reconstruct(model, real)
        return sample(model, truth.real, self.protocol, places=truth.places)


def untrained(made: Assembled, catalog: Catalog, entry: Entry, device: str | None) -> Model | Cascade:
    """The recipe's model at its first weights; see `Entry`."""
    fresh = assemble(made.recipe, catalog, device=device or "cpu").model
    for (_, new), (_, old) in zip(stages_of(fresh), stages_of(made.model), strict=True):
        for role in ROLES:
            if entry.untrained == "denoiser" and role not in LEARNT_TOGETHER and old.part(role) is not None:
                new.part(role).load_state_dict(old.part(role).state_dict())
    return fresh.eval()


def judged(marks: Mapping[str, Marks], better: str) -> dict[str, Any]:
    """The paired differences from the trained model and the verdict in words."""
    told, missed, sign = {}, [], 1 if better == "higher" else -1
    for arm, words in (("untrained", "its untrained self"), ("off", "its mechanism off")):
        gap = difference([marks[arm].clips], [marks["trained"].clips])
        told[f"over {arm}"] = {"value": gap.difference, "low": gap.low, "high": gap.high}
        if (gap.low if sign > 0 else -gap.high) <= 0:
            side = "worse than" if (gap.high if sign > 0 else -gap.low) < 0 else "not distinguishable from"
            missed.append(f"{side} {words}, by {gap.difference:+.3g} [{gap.low:+.3g}, {gap.high:+.3g}]")
    return {**told, "verdict": f"FAILED: {'; '.join(missed)}" if missed else "holds"}


def command(recipe: Recipe, clips: int) -> str:
    """What gives a row."""
    return f"{COMMAND} {recipe.name.partition('-')[0]}" + (f" --clips {clips}" if clips != CLIPS else "")


def parameters(made: Assembled) -> int:
    return sum(p.numel() for _, stage in stages_of(made.model) for p in stage.parameters())


def processor() -> str:
    """The processor in words, as the system has them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="NN", help="a recipe's number or name; none: render the table")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips of the test split that are asked for")
    parser.add_argument("--runs", type=Path, default=RUNS / "lineage", help="where run folders are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args(words)
    try:
        table = read_table(given.table)
        bench = Bench(Catalog.load(), Protocol(clips=given.clips), given.runs, progress())
        done = []
        for name in chosen(table, given.recipes):
            row = bench.row(name, table[name])
            done.append(row["system"])
            keep(given.out, kept_rows(given.out) | {row["system"]: row}, table)
        if not done:
            keep(given.out, kept_rows(given.out), table)
    except MutoscopeError as error:
        print(error, file=sys.stderr)
        return 1
    rows = kept_rows(given.out)
    shown = [rows[name] for name in done] if done else list(rows.values())
    print(json.dumps(shown, indent=1) if given.json else "\n".join(map(line, shown)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
