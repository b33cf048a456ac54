"""Where the runs of a study are worked on: here, on a Ray cluster, or as SLURM jobs. The numbers are the same."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from mutoscope.benchmarks.evaluation import Protocol
from mutoscope.benchmarks.matching import Arm
from mutoscope.benchmarks.study import Study
from mutoscope.benchmarks.work import Work, do_run, run_name
from mutoscope.core.errors import InputError, RunInUse, WorkError
from mutoscope.core.storage.checkpoint import newest
from mutoscope.core.training.distribution import join
from mutoscope.core.training.progress import Lines
from mutoscope.core.training.run import train
from mutoscope.core.training.signals import interruptible
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import PHASES, read_json, with_addresses

PATIENCE = 120.0
"""Seconds that a run waits for a folder that a worker which is ending still holds."""
POLL = 0.5
"""Seconds between looks at jobs elsewhere."""


@dataclass(frozen=True)
class Job:
    """One piece of work, in words that travel: the study's folder, an arm and a seed.

    phases: how many of the run's phases to train, for others to take them over; 0 for the whole run with its scores.
    threads: of torch, since another number gives other bits.
    """

    folder: str
    arm: str
    seed: int
    device: str | None
    threads: int
    phases: int = 0


class Executor(ABC):
    """Works on the runs of a study."""

    @abstractmethod
    def run(self, work: Work) -> list[dict[str, Any]]:
        """What every (arm, seed) came to, in the study's order. Raises Interrupted on a signal."""


@final
class Local(Executor):
    """Here, one run after another."""

    def run(self, work: Work) -> list[dict[str, Any]]:
        told = []
        for seed, arm in work.study.pairs():
            work.check()
            told.append(do_run(work, arm, seed))
        return told


class Remote(Executor):
    """In other processes, which find the study in its folder. Phases that runs share are trained first, each once."""

    def run(self, work: Work) -> list[dict[str, Any]]:
        folder, threads = str(work.folder.resolve()), torch.get_num_threads()
        with self.opened(work):
            for wave in shared_phases(work):
                jobs = [Job(folder, arm, seed, work.device, threads, phases) for arm, seed, phases in wave]
                work.progress.note(f"{len(jobs)} shared phases first")
                self.all(jobs, work)
            jobs = [Job(folder, arm.name, seed, work.device, threads) for seed, arm in work.study.pairs()]
            work.progress.begin("runs", len(jobs))
            done = self.all(jobs, work)
            work.progress.end()
            return done

    @abstractmethod
    def opened(self, work: Work) -> Any:
        """A context in which jobs can be given."""

    @abstractmethod
    def all(self, jobs: Sequence[Job], work: Work) -> list[dict[str, Any]]:
        """The results of all jobs, in their order."""


@final
class Ray(Remote):
    """On a Ray cluster: that of RAY_ADDRESS, or one of this machine. A killed worker's run goes on elsewhere.

    Nodes share the file system. cpus: that a run takes. retries: of a run whose worker was lost.
    """

    def __init__(self, cpus: float = 1, retries: int = 3) -> None:
        self.cpus, self.retries = cpus, retries

    def opened(self, work: Work) -> Any:
        try:
            import ray
        except ImportError:
            raise InputError(
                field="--executor", problem="ray is not installed", allowed='pip install "mutoscope[ray]"'
            ) from None
        started = not ray.is_initialized()
        if started:
            ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
        return _Closing(ray.shutdown if started else lambda: None)

    def all(self, jobs: Sequence[Job], work: Work) -> list[dict[str, Any]]:
        import ray

        gpus = 1 if join(work.device).device.type == "cuda" else 0
        remote = ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_retries=self.retries)(on_a_worker)
        asked = {remote.remote(asdict(job)): i for i, job in enumerate(jobs)}
        told: dict[int, dict[str, Any]] = {}
        waiting = list(asked)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=POLL)
            for one in ready:
                told[asked[one]] = _result(lambda one=one: ray.get(one), jobs[asked[one]])
                work.progress.advance(len(told))
            try:
                work.check()
            except BaseException:
                for one in waiting:
                    ray.cancel(one)
                raise
        return [told[i] for i in range(len(jobs))]


@final
class Slurm(Remote):
    """As SLURM jobs through submitit; where there is no SLURM, submitit's own processes on this machine stand in.

    cluster: `slurm`, `local`, or None for what there is. minutes: that a job may take; one that runs out of them is
    continued by the same command. cpus: of a job.
    """

    def __init__(self, cluster: str | None = None, minutes: int = 24 * 60, cpus: int = 1) -> None:
        self.cluster, self.minutes, self.cpus = cluster, minutes, cpus

    def opened(self, work: Work) -> Any:
        try:
            import submitit
        except ImportError:
            raise InputError(
                field="--executor", problem="submitit is not installed", allowed='pip install "mutoscope[slurm]"'
            ) from None
        self.executor = submitit.AutoExecutor(folder=work.folder / "jobs", cluster=self.cluster)
        self.executor.update_parameters(timeout_min=self.minutes, cpus_per_task=self.cpus, name="mutoscope")
        if join(work.device).device.type == "cuda":
            self.executor.update_parameters(gpus_per_node=1)
        work.progress.note(f"jobs go to {self.executor.cluster}; their logs lie in {work.folder / 'jobs'}")
        return _Closing(lambda: None)

    def all(self, jobs: Sequence[Job], work: Work) -> list[dict[str, Any]]:
        asked = [self.executor.submit(on_a_worker, asdict(job)) for job in jobs]
        while waiting := [one for one in asked if not one.done()]:
            work.progress.advance(len(asked) - len(waiting))
            try:
                work.check()
            except BaseException:
                for one in waiting:
                    one.cancel()
                raise
            time.sleep(POLL)
        return [_result(one.result, job) for one, job in zip(asked, jobs, strict=True)]


EXECUTORS: dict[str, Callable[[], Executor]] = {"local": Local, "ray": Ray, "slurm": Slurm}


def executor_named(name: str) -> Executor:
    """Raises InputError on a word that is none."""
    if name not in EXECUTORS:
        raise InputError(field="--executor", problem="there is no such executor", got=name, allowed=list(EXECUTORS))
    return EXECUTORS[name]()


# On a worker


def on_a_worker(said: dict[str, Any]) -> dict[str, Any]:
    """Does a job: whatever the executor, this is what runs."""
    job = Job(**said)
    torch.set_num_threads(job.threads)
    folder = Path(job.folder)
    study = opened_study(folder)
    name = run_name(job.arm, job.seed)
    (folder / "logs").mkdir(exist_ok=True)
    with open(folder / "logs" / f"{name}.log", "a", encoding="utf-8") as log, interruptible() as stop:
        work = Work(study, folder, folder.parent / PHASES, Lines(stream=log), stop, job.device)
        arm, deadline = study.arm(job.arm), time.monotonic() + PATIENCE
        while True:
            try:
                if job.phases:
                    return train_shared(work, arm, job.seed, job.phases)
                return do_run(work, arm, job.seed)
            except RunInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL)


def opened_study(folder: Path) -> Study:
    """The study that a folder holds, as the process that started it wrote it."""
    said = read_json(folder / "study.json")
    recipes = {arm["name"]: load_recipe(str(folder / arm["file"])) for arm in said["arms"]}
    catalog = Catalog.load(list(dict.fromkeys(path for recipe in recipes.values() for path in recipe.plugins)))
    arms = [
        Arm(
            arm["name"],
            recipes[arm["name"]],
            arm["cost"],
            {int(seed): Path(run) for seed, run in arm["finished"].items()},
            Path(arm["videos"]) if arm["videos"] else None,
        )
        for arm in said["arms"]
    ]
    protocol = {**said["protocol"], "shares": tuple(said["protocol"]["shares"])}
    return Study(
        said["name"], said["title"], said["question"], tuple(arms), tuple(said["seeds"]), said["match"],
        Protocol(**protocol), said["show"], said["untrained"], catalog, tuple(said["notes"]),
    )  # fmt: skip


def train_shared(work: Work, arm: Arm, seed: int, phases: int) -> dict[str, Any]:
    """Trains the first phases of a run into the store, for every run that has them."""
    processes = join(work.device)
    assembled = assemble(work.study.recipe(arm, seed), work.study.catalog, device=str(processes.device))
    assembled = with_addresses(assembled, work.study.catalog, processes.device.type)
    plan = replace(assembled.plan, phases=assembled.plan.phases[:phases])
    place = work.folder / "shared" / plan.phases[-1].address
    place.mkdir(parents=True, exist_ok=True)
    train(assembled.model, plan, place, processes, work.store, work.progress)
    return {"address": plan.phases[-1].address}


def shared_phases(work: Work) -> list[list[tuple[str, int, int]]]:
    """Waves of (arm, seed, phases): one for every phase but the last that several runs have and nobody has trained."""
    device = join(work.device).device.type
    chains: list[tuple[str, int, list[str]]] = []
    for seed, arm in work.study.pairs():
        if not arm.finished and not arm.videos:
            sketch = assemble(work.study.recipe(arm, seed), work.study.catalog, device="meta")
            phases = with_addresses(sketch, work.study.catalog, device).plan.phases[:-1]
            chains.append((arm.name, seed, [phase.address for phase in phases]))
    counts = Counter(address for _, _, chain in chains for address in chain)
    waves = []
    for depth in range(max((len(chain) for _, _, chain in chains), default=0)):
        found: dict[str, tuple[str, int, int]] = {}
        for name, seed, chain in chains:
            if depth < len(chain) and counts[chain[depth]] > 1 and newest(work.store / chain[depth]) is None:
                found.setdefault(chain[depth], (name, seed, depth + 1))
        waves.append(list(found.values()))
    return [wave for wave in waves if wave]


def _result(get: Callable[[], dict[str, Any]], job: Job) -> dict[str, Any]:
    """A job's result, or the failed run that a lost worker leaves."""
    try:
        return get()
    except Exception as error:
        if job.phases:
            raise WorkError(f"{job.arm}, seed {job.seed}: a shared phase failed: {_said(error)}") from None
        return {
            "arm": job.arm, "seed": job.seed, "run": f"runs/{run_name(job.arm, job.seed)}", "status": "failed",
            "error": f"its worker was lost: {_said(error)}", "clock": {},
        }  # fmt: skip


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


class _Closing:
    """A context that does something at its end."""

    def __init__(self, close: Callable[[], Any]) -> None:
        self.close = close

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):
            self.close()
