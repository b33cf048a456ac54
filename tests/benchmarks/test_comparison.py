"""A study from its file to its results: what is kept, what goes on, what fails."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mutoscope.benchmarks.comparison import compare, run_study, untrained
from mutoscope.benchmarks.study import Study, choose_study
from mutoscope.core.errors import InputError, Interrupted, RunInUse
from mutoscope.core.storage.lock import RunLock
from mutoscope.core.training.progress import Silence
from mutoscope.registry.runs import load


class Signalled(Silence):
    """Sends this process a signal once a kind of work has come so far."""

    def __init__(self, work: str, at: int) -> None:
        self.work, self.at, self.now, self.sent = work, at, "", False

    def begin(self, name: str, total: int, done: int = 0) -> None:
        self.now = name

    def advance(self, done: int, said=None) -> None:
        if not self.sent and self.work in self.now and done >= self.at:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)


class Noted(Silence):
    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, name: str, total: int, done: int = 0) -> None:
        self.begun.append(name)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def scores(told: dict) -> list:
    return [told["rows"], told["cells"], told["differences"], told["references"], told["fingerprints"]]


def test_results_have_a_row_per_arm_seed_and_metric(finished: Path):
    told = results(finished)
    metrics = [f"caption.{word}" for word in ("all", "appearance", "colour", "shape", "direction", "speed", "count")]
    keys = [(row["arm"], row["seed"], row["metric"]) for row in told["rows"]]
    assert sorted(keys) == sorted((a, s, m) for a in ("shallow", "deep") for s in (0, 1) for m in metrics)
    for row in told["rows"]:
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["n"], row["split"], row["reliable"]) == (8, "test", True)
    assert {cell["seeds"] for cell in told["cells"]} == {2}
    assert told["kind"] == "demonstration"
    assert "without a verdict" in told["sentence"]
    assert all(d["verdict"].startswith("no verdict") for d in told["differences"])
    assert told["failures"] == []


def test_cells_are_what_the_clips_say(finished: Path):
    """From the kept clips of every run back to the table."""
    told = results(finished)
    for row in told["rows"]:
        kept = json.loads((finished / "scores" / f"{row['arm']}-{row['seed']}.json").read_text())
        clips = kept["clips"][row["metric"]]
        assert row["value"] == pytest.approx(sum(clips) / 8)
        assert len(kept["right"]) == 8
    for cell in told["cells"]:
        values = [r["value"] for r in told["rows"] if (r["arm"], r["metric"]) == (cell["arm"], cell["metric"])]
        assert cell["value"] == pytest.approx(sum(values) / 2)


def test_floors_and_ceilings_stand_beside(finished: Path):
    told = results(finished)
    kinds = {r["name"]: r["kind"] for r in told["references"]}
    assert kinds == {
        "ground truth": "ceiling", "autoencoder round trip": "ceiling", "copied first frame": "floor",
        "frames shuffled": "floor", "captions shuffled": "floor", "mean video": "floor", "untrained": "floor",
    }  # fmt: skip
    value = {(r["name"], r["metric"]): r["value"] for r in told["references"]}
    assert value["copied first frame", "caption.direction"] == 0
    assert value["ground truth", "caption.colour"] > value["captions shuffled", "caption.colour"]
    assert set(told["fingerprints"]) == {row["metric"] for row in told["rows"]}


def test_the_budget_is_proved_by_the_journals(finished: Path):
    told = results(finished)
    assert len(told["budget"]) == 4
    for spent in told["budget"]:
        lines = (finished / "runs" / f"{spent['arm']}-{spent['seed']}" / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert (last["phase"], last["step"]) == ("1-denoiser", spent["steps"])
        assert spent["flops"] == spent["steps"] * spent["flops_per_step"]
        assert spent["share"] <= 1
        assert spent["matched"] == (abs(spent["share"] - 1) <= 0.01)
    assert [entry["phase"] for entry in told["shared"]] == ["0-autoencoder"]
    assert len(told["shared"][0]["runs"]) == 4
    assert [row["key"] for row in told["settings"]] == ["denoiser.depth", "training.phases.1.steps"]
    assert told["settings"][0]["values"] == {"shallow": 2, "deep": 3}


def test_the_same_command_again_does_nothing_twice(finished: Path, study: Study):
    before, watch = results(finished), Noted()
    again = compare(study, finished, watch, "cpu", "mutoscope compare study.yaml")
    assert watch.begun == []
    assert scores(again) == scores(before)


def test_interrupted_it_goes_on_to_the_same_numbers(finished: Path, study: Study, tmp_path: Path):
    """Stopped in training, in sampling and in the floors, one after another, against a study that nobody touched."""
    folder = tmp_path / "runs" / "study"
    for work, at in (("1-denoiser", 5), ("shallow-1: sampling", 8), ("untrained: sampling", 8)):
        with pytest.raises(Interrupted, match="the same command continues") as raised:
            compare(study, folder, Signalled(work, at), "cpu")
        assert raised.value.exit_code == 75
        assert not (folder / "results.json").exists()
    watch = Noted()
    told = compare(study, folder, watch, "cpu")
    assert scores(told) == scores(results(finished))
    assert watch.begun == ["untrained: sampling"]


def test_an_arm_that_fails_is_listed_and_the_others_have_their_scores(verb, desk: Path, tmp_path: Path):
    """`--swap` with a plugin of a third party, one part of which breaks at its first step."""
    folder = tmp_path / "out"
    words = ["compare", desk / "nano.yaml", "--swap", "denoiser=flat,broken", "--seeds", 1, "--clips", 4]
    code, out, _ = verb(*words, "--plugin", desk / "lamp.py", "--out", folder, "--device", "cpu")
    told = results(folder)
    assert code == 1
    assert told["failures"] == [{"arm": "broken", "seed": 0, "error": "RuntimeError: the lamp has burnt out"}]
    assert {row["arm"] for row in told["rows"]} == {"flat"}
    assert "1 run failed" in told["sentence"]
    assert out.splitlines()[-1] == str(folder / "report.html")
    assert "failed: broken, seed 0: RuntimeError: the lamp has burnt out" in out
    page = (folder / "report.html").read_text()
    assert "the lamp has burnt out" in page
    model = load(folder / "runs" / "flat-0", "cpu").model  # its recipe names the plugin file
    assert type(model.denoiser).__name__ == "Flat"  # type: ignore[union-attr]


def test_finished_runs_are_compared_as_they_are(verb, finished: Path, tmp_path: Path):
    """Two arms with two seeds each, found from the runs' recipes; the scores are the study's own."""
    runs = [finished / "runs" / name for name in ("shallow-0", "shallow-1", "deep-0", "deep-1")]
    code, out, err = verb("compare", *runs, "--clips", 8, "--out", tmp_path / "out", "--json", "--device", "cpu")
    assert code == 0, err
    told, before = json.loads(out), results(finished)
    assert [len(arm["runs"]) for arm in told["arms"]] == [2, 2]
    assert sorted((r["seed"], r["metric"], r["value"]) for r in told["rows"]) == sorted(
        (r["seed"], r["metric"], r["value"]) for r in before["rows"]
    )
    assert told["protocol"]["match"] == "as trained"
    assert not (tmp_path / "out" / "runs").exists()
    code, _, err = verb("compare", runs[0], "--seeds", 2)
    assert (code, err.count("\n")) == (2, 1)


def test_a_run_that_is_not_finished_is_refused(finished: Path, tmp_path: Path, study: Study):
    with pytest.raises(Interrupted):
        compare(study, tmp_path / "study", Signalled("1-denoiser", 5), "cpu")
    runs = [str(finished / "runs" / "deep-0"), str(tmp_path / "study" / "runs" / "shallow-0")]
    with pytest.raises(InputError, match="shallow-0 is not finished"):
        choose_study(runs, [], [], [], None, None, None)


def test_one_folder_one_study(finished: Path, study: Study, tmp_path: Path):
    arms = [replace(arm, recipe=arm.recipe.replace("training.lr", 2e-3)) for arm in study.arms]
    other = replace(study, arms=tuple(arms))
    with pytest.raises(InputError, match="another recipe for shallow"):
        compare(other, finished, Silence(), "cpu")
    with pytest.raises(InputError, match="is a run's folder"):
        compare(other, finished / "runs" / "deep-0", Silence(), "cpu")


def test_two_processes_do_not_share_a_folder(finished: Path, desk: Path, verb):
    with RunLock(finished):
        code, _, err = verb("compare", desk / "study.yaml", "--out", finished, "--device", "cpu")
    assert (code, RunInUse.exit_code) == (3, 3)
    assert f"in use by process {os.getpid()}" in err


def test_untrained_keeps_the_autoencoder_and_nothing_else(finished: Path, study: Study):
    trained = load(finished / "runs" / "shallow-0", "cpu").assembled
    fresh = untrained(trained, study, study.recipe(study.arms[0], 0), "cpu").state_dict()
    changed = {
        name.partition(".")[0] for name, w in trained.model.state_dict().items() if not torch.equal(w, fresh[name])
    }
    assert changed == {"denoiser", "conditioner"}
    again = untrained(trained, study, study.recipe(study.arms[0], 0), "cpu").state_dict()
    assert all(torch.equal(again[name], w) for name, w in fresh.items())


def test_more_seeds_add_to_what_is_done(finished: Path, study: Study, tmp_path: Path):
    """A third seed makes the study exploratory, with Student's interval and a verdict; only it is trained."""
    watch = Noted()
    compare(replace(study, seeds=(0, 1, 2)), finished, watch, "cpu")
    told = results(finished)
    assert [name for name in watch.begun if "denoiser" in name] == ["1-denoiser", "1-denoiser"]
    assert told["kind"] == "exploratory"
    assert told["sentence"].startswith("Exploratory: 3 seeds, 8 clips each. caption.all: deep − shallow = ")
    assert {d["basis"] for d in told["differences"]} == {"paired t over seeds"}
    compare(study, finished, Silence(), "cpu", "mutoscope compare study.yaml")


def test_run_study_alone_gives_every_run(finished: Path, study: Study):
    _, work = run_study(study, finished, Silence(), "cpu")
    assert [run["status"] for run in work["runs"]] == ["done"] * 4
