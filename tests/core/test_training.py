"""The verb `train`: what a step depends on, and that a run resumes to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import InputError, WorkError
from mutoscope.core.storage.checkpoint import newest, read_checkpoint
from mutoscope.core.storage.journal import read_journal
from mutoscope.core.training.descent import learning_rate
from mutoscope.core.training.plan import Descent
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import load


def same_bits(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for part in a:
        assert a[part].keys() == b[part].keys(), part
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), f"{part}.{name} differs"


def test_same_command_twice_gives_same_bits(trained, tmp_path: Path):
    same_bits(trained(tmp_path / "a")["parts"], trained(tmp_path / "b")["parts"])


def test_another_seed_gives_another_model(trained, tmp_path: Path):
    a, b = trained(tmp_path / "a"), trained(tmp_path / "b", "training.seed=1")
    assert not torch.equal(a["parts"]["model"]["denoiser.embed.weight"], b["parts"]["model"]["denoiser.embed.weight"])


def test_accumulation_changes_nothing_but_rounding(trained, tmp_path: Path):
    whole, cut = trained(tmp_path / "a"), trained(tmp_path / "b", "training.accumulate=4")
    for name, tensor in whole["parts"]["model"].items():
        torch.testing.assert_close(tensor, cut["parts"]["model"][name], atol=2e-4, rtol=2e-3)


def test_a_finished_phase_is_taken_from_the_store(trained, tmp_path: Path):
    first = trained(tmp_path / "a", store=True)
    second = trained(tmp_path / "b", "sampler.steps=3", "denoiser.depth=1", store=True)
    assert "reused" not in first["state"]["spent"]["0-autoencoder"]
    assert second["state"]["spent"]["0-autoencoder"]["reused"] == 1
    for name, tensor in first["parts"]["model"].items():
        if name.startswith("autoencoder."):
            assert torch.equal(tensor, second["parts"]["model"][name])
    records = read_journal(tmp_path / "b" / "metrics.jsonl")
    assert [r["step"] for r in records if r["phase"] == "0-autoencoder"] == [1, 2, 3, 4, 5, 6]


def test_the_same_command_again_says_done(trained, tmp_path: Path):
    before = trained(tmp_path / "a")
    text = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    same_bits(before["parts"], trained(tmp_path / "a")["parts"])
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == text


def test_another_recipe_does_not_take_the_folder(trained, tmp_path: Path):
    trained(tmp_path / "a")
    with pytest.raises(InputError, match="another recipe"):
        trained(tmp_path / "a", "denoiser.depth=1")


FAULTS = (
    "step.begin@3:kill",
    "checkpoint.between_files@2:kill",
    "checkpoint.before_rename:kill",
    "checkpoint.after_rename:kill",
    "prune.before_delete:kill",
    "journal.in_line@2:kill",
)


def test_killed_anywhere_it_resumes_to_the_same_bits(trained, nano: Path, command: list[str], tmp_path: Path):
    """One run killed in steps and saves, each time in a process of its own, against one that nobody touched. Every point
    there is has its trial in `tests/faults`."""
    whole = trained(tmp_path / "whole")
    folder = tmp_path / "killed"
    call = [*command, "train", str(nano), "--out", str(folder), "--device", "cpu"]
    killed = 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for fault in FAULTS:
        done = subprocess.run(call, env={**environment, "MUTOSCOPE_FAULT": fault}, capture_output=True, cwd=tmp_path)
        killed += done.returncode == -signal.SIGKILL
        if done.returncode == 0:
            break
    final = subprocess.run(call, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert final.returncode == 0, final.stderr
    assert killed >= 5, f"only {killed} of the faults struck"
    found = newest(folder / "checkpoints")
    assert found is not None
    parts, _ = read_checkpoint(found)
    same_bits(whole["parts"], parts)
    kept = [
        {k: v for k, v in r.items() if k not in ("seconds", "peak_memory")}
        for r in read_journal(folder / "metrics.jsonl")
    ]
    base = [
        {k: v for k, v in r.items() if k not in ("seconds", "peak_memory")}
        for r in read_journal(tmp_path / "whole" / "metrics.jsonl")
    ]
    assert kept == base
    assert not list((folder / "checkpoints").glob(".tmp-*"))


def test_a_signal_stops_at_a_safe_point(nano: Path, command: list[str], tmp_path: Path):
    folder = tmp_path / "run"
    call = [*command, "train", str(nano), "training.phases.1.steps=100000", "--out", str(folder), "--device", "cpu"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    journal = folder / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and len(read_journal(journal)) > 8):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert said.strip().splitlines()[-1].endswith("the same command continues")
    found = newest(folder / "checkpoints")
    assert found is not None
    step = read_checkpoint(found)[1]["step"]
    assert step == read_journal(journal)[-1]["step"]


def test_a_loss_that_is_not_finite_is_named(trained, tmp_path: Path):
    with pytest.raises(WorkError, match=r"0-autoencoder: step \d+: .*not finite"):
        trained(
            tmp_path / "a", "training.lr=1e30", "training.clip=0", "training.warmup=0", "training.phases.0.steps=60"
        )
    for folder in (tmp_path / "a" / "checkpoints").glob("step-*"):
        for tensors in read_checkpoint(folder)[0].values():
            assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())


def test_evaluation_mode_samples_with_the_average(trained, tmp_path: Path):
    trained(tmp_path / "a")
    loaded = load(tmp_path / "a", "cpu")
    video = loaded.generate("a red circle moves left slowly", frames=5, size=(8, 8))
    assert video.shape == (1, 3, 5, 8, 8)
    assert torch.equal(video, loaded.generate("a red circle moves left slowly", frames=5, size=(8, 8)))
    assert not torch.equal(video, loaded.generate("a red circle moves left slowly", frames=5, size=(8, 8), seed=1))


def test_samples_do_not_depend_on_batch_mates(trained, tmp_path: Path):
    trained(tmp_path / "a")
    loaded = load(tmp_path / "a", "cpu")
    prompts = ("a red circle moves left slowly", "a blue square moves up quickly", "a green triangle moves down slowly")
    together = loaded.generate(*prompts)
    one_by_one = loaded.generate(*prompts, at_once=1)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-5)


def test_an_uncovered_size_is_sampled_larger_and_trimmed(trained, tmp_path: Path):
    trained(tmp_path / "a")
    answer = load(tmp_path / "a", "cpu").answer("a red circle moves left slowly", frames=4, size=(7, 12))
    assert answer.video.shape == (1, 3, 4, 7, 12)
    assert "trimmed to 4 of 7 x 12" in answer.notes[0]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "rsqrt"])
def test_rates_warm_up_and_end_where_they_should(schedule: str):
    descent = Descent(steps=100, warmup=10, lr=2.0, schedule=schedule, floor=0.1)  # type: ignore[arg-type]
    rates = [learning_rate(descent, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    ends = {"constant": 2.0, "cosine": 0.2, "linear": 0.2, "rsqrt": 2.0 * (10 / 100) ** 0.5}
    assert rates[-1] == pytest.approx(ends[schedule], rel=0.1)


def test_resolved_recipe_and_provenance_are_written(trained, nano: Path, tmp_path: Path):
    trained(tmp_path / "a", "denoiser.depth=1")
    assert load_recipe(str(tmp_path / "a" / "recipe.yaml")).data["denoiser"]["depth"] == 1
    told = json.loads((tmp_path / "a" / "run.json").read_text())
    assert torch.__version__.startswith(told["environment"]["packages"]["torch"])
    assert [phase["name"] for phase in told["phases"]] == ["0-autoencoder", "1-denoiser"]


def test_a_phase_of_no_steps_moves_nothing(trained, tmp_path: Path):
    """Neither does it look for clips to encode."""
    whole, none = trained(tmp_path / "a"), trained(tmp_path / "b", "training.phases.1.steps=0")
    assert {r["phase"] for r in read_journal(tmp_path / "b" / "metrics.jsonl")} == {"0-autoencoder"}
    same = {n for n, x in whole["parts"]["model"].items() if torch.equal(x, none["parts"]["model"][n])}
    assert all(name in same for name in none["parts"]["model"] if name.startswith("autoencoder."))
    assert not all(name in same for name in none["parts"]["model"] if name.startswith("denoiser."))
