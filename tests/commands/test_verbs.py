"""The other verbs on a trained run: `evaluate`, `tasks`, `export`, `lineage`, `check`, and the command line itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import mutoscope
from mutoscope.benchmarks.evaluation import Looked, Protocol, Truth, sample, score
from mutoscope.commands.main import VERBS
from mutoscope.registry import lineage, shipped
from mutoscope.registry.recipe import load_recipe


def test_every_verb_has_its_help(verb: Callable):
    overview = verb("--help")
    assert overview.code == 0
    for name, does in VERBS.items():
        assert f"  {name} " in overview.out
        assert does in overview.out
        said = verb(name, "--help")
        assert said.code == 0, said.err
        assert said.out.startswith(f"Usage: mutoscope {name}"), said.out
    assert verb().out == overview.out
    assert verb("--version").out == f"mutoscope {mutoscope.__version__}\n"


def test_usage_errors(refused: Callable):
    assert 'did you mean "sample"' in refused("smaple")
    assert "No such option" in refused("list", "--nope")
    assert "Missing argument" in refused("check")


def test_evaluate(verb: Callable, run: Path):
    said = verb("evaluate", run, "--clips", 12, "--json")
    assert said.code == 0, said.err
    scores = said.json
    assert json.loads((run / "metrics.json").read_text()) == scores
    assert {"caption.all", "caption.colour"} <= set(scores)
    for entry in scores.values():
        assert set(entry) == {"value", "low", "high", "n", "split", "fingerprint"}
        assert entry["low"] - 1e-9 <= entry["value"] <= entry["high"] + 1e-9
        assert (entry["n"], entry["split"]) == (12, "test")
    loaded = mutoscope.load(run, device="cpu")
    protocol = Protocol(clips=12)
    truth = Truth.of(loaded.assembled.dataset, protocol)
    video = sample(loaded.model, truth.real, protocol)
    for one in score(loaded.assembled.metrics, Looked(video), truth, protocol, loaded.assembled.dataset):
        assert scores[one.metric]["value"] == pytest.approx(one.value)
        assert scores[one.metric]["fingerprint"] == one.fingerprint


def test_evaluate_takes_all_of_a_small_split(verb: Callable, run: Path):
    assert {entry["n"] for entry in verb("evaluate", run, "--split", "validation", "--json").json.values()} == {24}


def test_evaluate_mistakes(refused: Callable, run: Path, tmp_path: Path):
    assert "no such split" in refused("evaluate", run, "--split", "tset")
    assert "fewer than the 25" in refused("evaluate", run, "--clips", 25, code=4)
    assert "not a run folder" in refused("evaluate", tmp_path)
    assert not (run / "metrics.json").exists()
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.partition("metrics:")[0])
    assert "names none" in refused("evaluate", run)


def test_a_run_says_what_else_it_goes_on_with(verb: Callable, run: Path):
    """Other code, by the addresses of the phases, or another number of threads; nothing where all is as it was."""
    file = run / "run.json"
    said = json.loads(file.read_text())
    assert "continues with other" not in verb("train", run / "recipe.yaml", "--out", run).err
    said["phases"][1]["address"] = "0" * 32
    file.write_text(json.dumps(said))
    assert "continues with other code of its parts or core" in verb("train", run / "recipe.yaml", "--out", run).err
    said["environment"]["threads"] += 1
    file.write_text(json.dumps(said))
    assert "continues with other threads than before" in verb("train", run / "recipe.yaml", "--out", run).err


def test_a_run_without_a_checkpoint(refused: Callable, verb: Callable, run: Path):
    import shutil

    shutil.rmtree(run / "checkpoints")
    for name in ("sample", "evaluate"):
        assert "has no checkpoint yet" in refused(name, run)
    assert verb("tasks", run).code == 0


def test_tasks(verb: Callable, run: Path, tmp_path: Path):
    rows = {row["task"]: row for row in verb("tasks", run, "--json").json}
    assert {task for task, row in rows.items() if not row["possible"]} == {"class to video", "actions to video"}
    assert rows["animate an image"]["why"] == "by the sampler repaint, in the place of euler"
    assert rows["edit a video"]["why"] == "by the sampler sdedit, in the place of euler"
    assert rows["text to video"]["why"] == "text reads prompt"
    assert rows["class to video"]["why"] == "no conditioner reads label; there is text"
    assert "3, 7, 9, 11 frames" in rows["other durations"]["why"]
    assert all(set(row) == {"task", "possible", "why"} and row["why"] for row in rows.values())
    verb("export", run, tmp_path / "model")
    assert verb("tasks", tmp_path / "model", "--json").json == list(rows.values())
    table = verb("tasks", run)
    assert "class to video" in table.out
    assert "no conditioner reads label" in " ".join(table.out.split())


def test_tasks_of_a_cascade(verb: Callable, cascade: Path):
    rows = {row["task"]: row for row in verb("tasks", cascade, "--json").json}
    asked = [rows[task]["possible"] for task in ("text to video", "class to video", "actions to video")]
    assert asked == [True, True, True]
    assert rows["actions to video"]["why"].startswith("actions reads actions; 0 to ")


def test_tasks_say_what_the_parts_are_in_the_way_of(verb: Callable, run: Path):
    """No dropout, no guidance; a coarse grid trims."""
    recipe = load_recipe(
        run / "recipe.yaml", ["conditioner.dropout=0", "sampler.guidance=1", "autoencoder.stride=[4,4,4]"]
    )
    (run / "recipe.yaml").write_text(recipe.dump())
    rows = {row["task"]: row for row in verb("tasks", run, "--json").json}
    assert not rows["guidance"]["possible"]
    assert "learned to be told nothing" in rows["guidance"]["why"]
    assert rows["other durations"]["why"].startswith("9, 13, 17 frames")


@pytest.mark.parametrize(
    ("recipe", "impossible"),
    [
        ("lineage/05-mocogan", {"text to video", "other sizes", "guidance", "animate an image", "edit a video"}),
        ("lineage/08-videogpt", {"class to video", "other sizes", "connect two videos", "loop", "edit a video"}),
        ("lineage/18-navit", {"class to video", "actions to video"}),
    ],
)
def test_tasks_of_other_families(recipe: str, impossible: set[str], verb: Callable, tmp_path: Path):
    """Found out from their parts, which say themselves what they cannot do."""
    (tmp_path / "recipe.yaml").write_text(load_recipe(recipe).dump())
    rows = {row["task"]: row for row in verb("tasks", tmp_path, "--json").json}
    assert impossible <= {task for task, row in rows.items() if not row["possible"]}
    assert len(rows) == 16


def test_tasks_mistakes(refused: Callable, tmp_path: Path):
    assert "not a run folder" in refused("tasks", tmp_path)


def test_export_makes_the_folders_above(verb: Callable, run: Path, tmp_path: Path):
    assert verb("export", run, tmp_path / "a" / "b").lines == [str(tmp_path / "a" / "b")]


def test_export_mistakes(refused: Callable, run: Path, tmp_path: Path):
    assert "cannot be made" in refused("export", run, run / "recipe.yaml" / "x")
    assert "is there already" in refused("export", run, run)
    assert "not a run folder" in refused("export", tmp_path, tmp_path / "x")


def test_lineage(verb: Callable):
    rows = verb("lineage", "--json").json
    assert [row["number"] for row in rows] == list(range(33))
    for row in rows:
        assert set(row) == {"number", "system", "year", "recipe", "paper_recipes", "parts"}
        assert 2014 <= row["year"] <= 2024
        assert (row["recipe"] is None) == (row["parts"] == [])
        for name in [*row["paper_recipes"], *([row["recipe"]] if row["recipe"] else [])]:
            assert shipped.find_recipe(name).stem.startswith(f"{row['number']:02d}-")
    shown = {f"lineage/{stem}" for stem in shipped.names(("lineage",))}
    assert {row["recipe"] for row in rows if row["recipe"]} == shown
    dit = rows[26]
    assert (dit["system"], dit["year"], dit["recipe"]) == ("DiT, Peebles & Xie", 2023, "lineage/26-dit")
    assert "denoiser dit" in dit["parts"]
    assert "paper/26-dit-xl-2" in dit["paper_recipes"]
    assert "Sora" in verb("lineage").out


def test_lineage_needs_no_torch(monkeypatch: pytest.MonkeyPatch):
    import subprocess
    import sys

    code = "import sys; from mutoscope.registry.lineage import rows; rows(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_parts_of_a_recipe_with_stages_and_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cascade: Path):
    monkeypatch.setattr(lineage, "load_recipe", lambda name: load_recipe(cascade / "recipe.yaml"))
    parts = lineage._parts("any")
    assert {"data shapes", "conditioner label", "conditioner actions", "sampler heun", "objective flow"} <= set(parts)
    assert len(parts) == len(set(parts))


def test_check_an_installed_plugin(verb: Callable):
    said = verb("check", "patchifiers", "--json")
    assert said.code == 0, said.out
    assert {"role", "part", "check", "passed", "said"} == set(said.json[0])
    assert {"unpatchify_is_the_inverse", "canvas_matches_tokens"} <= {row["check"] for row in said.json}


BAD = '''
from __future__ import annotations
from typing import final
import torch
from torch import nn
from mutoscope import hookimpl
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import TokenFact
from mutoscope.core.process import LevelProcess

@final
class Deaf(LevelDenoiser):
    """Listens to nobody."""
    name = "deaf"

    def __init__(self, tokens: TokenFact, process: LevelProcess):
        super().__init__()
        self.out = nn.Linear(tokens.width, process.output_width(tokens))

    def forward(self, tokens, level, conditioning):
        return self.out(tokens.filled())

@hookimpl
def mutoscope_components():
    return [Deaf]
'''


def test_check_says_what_fails(verb: Callable, tmp_path: Path):
    (tmp_path / "deaf.py").write_text(BAD)
    said = verb("check", tmp_path / "deaf.py", "--json")
    assert said.code == 1
    failed = {row["check"]: row["said"] for row in said.json if not row["passed"]}
    assert failed == {"level_and_conditioning_matter": "the level makes no difference"}
    table = verb("check", tmp_path / "deaf.py")
    assert table.code == 1
    assert "failed: the level makes no difference" in " ".join(table.out.split())
    assert "checks passed" in table.lines[-1]


def test_check_of_what_raises_and_exits(verb: Callable, tmp_path: Path):
    (tmp_path / "raises.py").write_text(
        BAD.replace("return self.out(", "raise RuntimeError('a\\nb')\n        return (").replace("deaf", "raises")
    )
    (tmp_path / "exits.py").write_text(
        BAD.replace("super().__init__()", "super().__init__(); raise SystemExit(0)").replace("deaf", "exits")
    )
    raises = verb("check", tmp_path / "raises.py", "--json")
    assert raises.code == 1
    assert "RuntimeError: a b" in {row["said"] for row in raises.json}
    exits = verb("check", tmp_path / "exits.py", "--json")
    assert exits.code == 1
    assert any(row["said"].startswith("SystemExit") for row in exits.json)


def test_check_mistakes(refused: Callable, tmp_path: Path):
    assert 'did you mean "diffusion"' in refused("check", "difusion")
    assert "no such plugin file" in refused("check", tmp_path / "nowhere.py")
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found")
    assert "plugin broken failed to import: ModuleNotFoundError" in refused("check", tmp_path / "broken.py", code=1)
