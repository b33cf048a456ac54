"""Runs on other processes: the same numbers, shared phases once, and a killed worker's run that goes on elsewhere."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mutoscope.benchmarks import executors
from mutoscope.benchmarks.comparison import compare
from mutoscope.benchmarks.executors import Local, Ray, Slurm, executor_named, opened_study, shared_phases
from mutoscope.benchmarks.study import Study, choose_study
from mutoscope.benchmarks.work import Work
from mutoscope.core.errors import InputError
from mutoscope.core.training.progress import Silence
from mutoscope.core.training.signals import Stop
from mutoscope.registry.runs import PHASES, read_json


def scores(told: dict) -> list:
    return [told["rows"], told["cells"], told["differences"], told["references"]]


def test_what_a_worker_opens_is_the_study(finished: Path, study: Study):
    opened = opened_study(finished)
    assert [arm.name for arm in opened.arms] == [arm.name for arm in study.arms]
    for mine, theirs in zip(opened.arms, study.arms, strict=True):
        assert mine.recipe.data == theirs.recipe.data
        assert json.dumps(mine.cost) == json.dumps(theirs.cost)
    assert (opened.protocol, opened.show, opened.match) == (study.protocol, study.show, study.match)
    assert {s for s, _ in opened.pairs()} <= {s for s, _ in study.pairs()} | {2}


def test_shared_phases_come_first_and_once(finished: Path, study: Study, tmp_path: Path):
    """Four runs on one autoencoder: one wave of one job; none where it is trained already."""
    work = Work(study, tmp_path / "study", tmp_path / PHASES, Silence(), Stop(), "cpu")
    assert shared_phases(work) == [[("shallow", 0, 1)]]
    done = replace(work, store=finished.parent / PHASES)
    assert shared_phases(done) == []


def test_a_wrong_word_is_one_clear_line(verb, desk: Path):
    assert isinstance(executor_named("local"), Local)
    with pytest.raises(InputError, match=r"--executor: there is no such executor; got 'slrum'; did you mean"):
        executor_named("slrum")
    code, _, err = verb("compare", desk / "study.yaml", "--executor", "clouds")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(("name", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_what_is_not_installed_is_said_with_the_way_to_get_it(
    monkeypatch, name: str, module: str, tmp_path: Path, study
):
    monkeypatch.setitem(sys.modules, module, None)
    work = Work(study, tmp_path, tmp_path / PHASES, Silence(), Stop(), "cpu")
    with pytest.raises(InputError, match=rf'{module} is not installed; allowed: pip install "mutoscope\[{name}\]"'):
        executor_named(name).opened(work)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_slurm_jobs_give_the_same_numbers(finished: Path, study: Study, tmp_path: Path):
    """By submitit's own processes on this machine."""
    pytest.importorskip("submitit")
    told = compare(study, tmp_path / "runs" / "study", Silence(), "cpu", executor=Slurm("local", minutes=20))
    before = compare(study, finished, Silence(), "cpu", "mutoscope compare study.yaml")
    assert scores(told) == scores(before)
    assert (tmp_path / "runs" / "study" / "logs" / "deep-1.log").is_file()
    assert len(list((tmp_path / "runs" / "study" / "shared").iterdir())) == 1


@pytest.mark.slow
def test_ray_on_two_nodes_survives_a_killed_worker(desk: Path, finished: Path, tmp_path: Path, monkeypatch):
    """A real cluster of two nodes; the worker of one run is killed in the middle of training, and the run goes on from
    its checkpoint in another worker, to the numbers of a study that nobody touched."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    words = ["training.phases.1.steps=400", "training.phases.1.checkpoint_every=20", "match=steps", "seeds=[0]"]
    study = choose_study([str(desk / "study.yaml")], [], words, [], None, None, None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    folder, killed = tmp_path / "runs" / "study", []

    def hunt() -> None:
        """Kills whoever trains the deep arm once it has a checkpoint of the phase that is compared."""
        deadline = time.monotonic() + 1500
        run = folder / "runs" / "deep-0"
        while time.monotonic() < deadline and not killed:
            steps = [int(p.name[5:]) for p in (run / "checkpoints").glob("step-*")] if run.is_dir() else []
            if any(40 <= step < 300 for step in steps):
                try:
                    worker = json.loads((run / ".lock").read_text())["pid"]
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)
                except (ValueError, OSError):
                    pass
            time.sleep(0.05)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        told = compare(study, folder, Silence(), "cpu", executor=Ray())
    finally:
        hunter.join()
        import ray

        ray.shutdown()
        cluster.shutdown()
    assert killed, "nobody was killed"
    assert told["failures"] == []
    log = (folder / "logs" / "deep-0.log").read_text()
    resumed = [line for line in log.splitlines() if line.startswith("1-denoiser: ") and line.endswith(" to do")]
    assert len(resumed) == 2 and resumed[0] == "1-denoiser: 400 to do" != resumed[1]
    alone = compare(study, tmp_path / "alone" / "study", Silence(), "cpu")
    assert scores(told) == scores(alone)
    assert read_json(folder / "study.json")["arms"] == read_json(tmp_path / "alone" / "study" / "study.json")["arms"]


def test_a_lost_worker_is_a_failed_run(study: Study):
    job = executors.Job("folder", "deep", 1, "cpu", 1)

    def lost() -> dict:
        raise RuntimeError("the node\nis gone")

    told = executors._result(lost, job)
    assert (told["status"], told["error"]) == ("failed", "its worker was lost: the node is gone")
