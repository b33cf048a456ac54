"""The lineage's rows: the table is read strictly, a tiny recipe gets its row, and verdicts go by paired intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mutoscope.benchmarks.evaluation import Protocol
from mutoscope.benchmarks.lineage import Bench, Marks, command, judged, main
from mutoscope.benchmarks.lineage_table import chosen, kept_rows, read_table
from mutoscope.core.errors import InputError
from mutoscope.core.training.progress import Silence
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.shipped import names

RECIPE = """
data: {type: shapes, frames: 1, size: [8, 8], laws: [still], clips: 60, held: 24}
autoencoder: {type: identity, scale: 2.5, shift: 0.85}
patchifier: {type: spacetime, size: [1, 2, 2]}
denoiser: {type: dit, width: 16, depth: 1, heads: 2}
objective: {type: flow, predict: clean}
sampler: {type: euler, steps: 2}
training: {batch: 16, lr: 2.0e-3, steps: 60, warmup: 2, ema: 0.5}
metrics: [held_loss]
"""


def marks(clips: np.ndarray) -> Marks:
    return Marks(float(clips.mean()), float(clips.min()), float(clips.max()), clips)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "77-nano.yaml").write_text(RECIPE)
    said = "{score: held_loss, off: [training.lr=1.0e-6], without: learning, found: none}"
    (tmp_path / "table.yaml").write_text(f"{tmp_path / '77-nano.yaml'}: {said}\n")
    return tmp_path


def test_a_tiny_recipe_gets_its_row(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["77", "--table", str(desk / "table.yaml"), "--runs", str(desk / "runs"), "--out", str(desk / "out")]
    assert main([*words, "--clips", "12", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["system"] == "77-nano" and row["better"] == "lower" and row["parameters"] > 1000
    assert row["command"].endswith("lineage 77 --clips 12") and row["trained cpu seconds"] > 0 and row["clips"] == 12
    # Sixty steps lower the loss of every clip; a learning rate of nothing leaves it where it was.
    assert row["verdict"] == "holds" and row["over off"]["high"] < 0
    assert row["off"]["value"] == pytest.approx(row["untrained"]["value"], rel=0.05)
    assert "| 77-nano | held_loss, lower is better |" in (desk / "out" / "lineage.md").read_text()
    assert set(kept_rows(desk / "out")) == {"77-nano"}
    (desk / "77-nano.yaml").write_text(RECIPE.replace("steps: 60", "steps: 61"))
    assert main(words[1:]) == 0
    assert "changed since its row: 77-nano" in (desk / "out" / "lineage.md").read_text()


def test_verdicts_go_by_paired_intervals() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=64)  # what is common to a clip must not count
    told = {"trained": marks(hard + 0.2), "untrained": marks(hard), "off": marks(hard + 0.2 * rng.normal(size=64))}
    found = judged(told, "higher")
    assert found["verdict"] == "holds" and found["over untrained"]["value"] == pytest.approx(0.2)
    assert "worse than its untrained self" in judged(told, "lower")["verdict"]
    same = judged({**told, "off": told["trained"]}, "higher")
    assert same["verdict"].startswith("FAILED: not distinguishable from its mechanism off")


def test_the_table_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    for said, word in (("{score: kernel, off: [a=1], without: x, of: y}", "of"), ("{score: kernel, off: []}", "off")):
        path.write_text(f"20-vae: {said}\n")
        with pytest.raises(InputError, match=rf"t\.yaml:1.*{word}"):
            read_table(path)
    with pytest.raises(InputError, match="no such recipe"):
        chosen(read_table(), ["99"])


def test_every_row_of_the_table_fits_its_recipe() -> None:
    table, bench = read_table(), Bench(Catalog.load(), Protocol(), Path(), Silence())
    shipped = set(names(("lineage",)))
    assert set(table) == shipped
    for name, entry in table.items():
        bench.check(load_recipe(name), load_recipe(name, entry.off), entry)
    entry = table["20-vae"].model_copy(update={"score": "caption.all"})
    with pytest.raises(InputError, match="does not name the metric"):
        bench.check(load_recipe("20-vae"), load_recipe("20-vae", table["20-vae"].off), entry)


def test_the_command_says_how_many_clips():
    assert command(load_recipe("lineage/26-dit"), 128).endswith("lineage 26")
    assert command(load_recipe("lineage/26-dit"), 512).endswith("lineage 26 --clips 512")
