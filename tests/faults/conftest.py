"""A run that takes a second, the command line in forked processes, and the record of trials."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mutoscope.core.storage import failpoints
from mutoscope.core.storage.checkpoint import newest, read_checkpoint
from mutoscope.core.storage.journal import read_journal
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import train_recipe

NANO = """
data: {type: shapes, frames: 5, size: [8, 8], clips: 20, held: 8}
autoencoder: {type: causal_kl, channels: 4, stride: [2, 4, 4], width: 8, depth: 1}
patchifier: {type: spacetime, size: [1, 1, 1]}
conditioner: {type: text, width: 16, depth: 1, heads: 2, length: 12}
denoiser: {type: dit, width: 16, depth: 1, heads: 2}
objective: flow
sampler: {type: euler, steps: 2, guidance: 2.0}
training:
  batch: 4
  lr: 1.0e-3
  warmup: 2
  checkpoint_every: 3
  log_every: 1
  ema: 0.9
  phases:
    - {learn: autoencoder, objective: reconstruction, steps: 5}
    - {learn: denoiser, steps: 8}
metrics: [caption]
"""
PIXELS = """
data: {type: shapes, frames: 5, size: [8, 8], clips: 20, held: 8}
autoencoder: identity
patchifier: {type: spacetime, size: [1, 4, 4]}
conditioner: {type: text, width: 16, depth: 1, heads: 2, length: 12}
denoiser: {type: dit, width: 16, depth: 1, heads: 2}
objective: flow
sampler: {type: euler, steps: 2}
training: {batch: 4, steps: 8, warmup: 2, checkpoint_every: 3, log_every: 1, ema: 0.9}
metrics: [caption]
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def unarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder and a denoiser over its latents: 5 and 8 steps."""
    path = tmp_path_factory.mktemp("recipes") / "nano.yaml"
    path.write_text(NANO)
    return path


@pytest.fixture(scope="session")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser of pixels: 8 steps."""
    path = tmp_path_factory.mktemp("recipes") / "pixels.yaml"
    path.write_text(PIXELS)
    return path


# Commands


@dataclass
class Ended:
    """A command that has ended; code is negative for a signal."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stderr.splitlines()


class Commands:
    """Runs `mutoscope ...` in processes forked from one that has imported everything."""

    def __init__(self, recipe: Path, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("MUTOSCOPE_FAULT", None)
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py")), str(recipe)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder,
        )  # fmt: skip
        self.ended: dict[int, int] = {}
        self.places: dict[int, Path] = {}
        self.count = 0
        assert self._next().get("ready")

    def _next(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, "the server of commands has ended"
        return json.loads(line)

    def start(self, *argv: object, fault: str = "", cwd: Path | None = None, **more: Any) -> int:
        """Starts a command; gives its process."""
        self.count += 1
        place = self.folder / f"command-{self.count}"
        place.mkdir()
        job = {"argv": list(map(str, argv)), "cwd": str(cwd or self.folder), "env": {"MUTOSCOPE_FAULT": fault},
               "out": str(place), **more}  # fmt: skip
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(job).encode() + b"\n")
        self.server.stdin.flush()
        while "pid" not in (answer := self._next()):
            self.ended[answer["ended"]] = answer["code"]
        self.places[answer["pid"]] = place
        return answer["pid"]

    def wait(self, pid: int) -> Ended:
        while pid not in self.ended:
            answer = self._next()
            self.ended[answer["ended"]] = answer["code"]
        place = self.places.pop(pid)
        return Ended(self.ended.pop(pid), *((place / name).read_text() for name in ("stdout", "stderr")))

    def signal(self, pid: int, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if pid not in self.ended:
                os.kill(pid, number)

    def run(self, *argv: object, fault: str = "", **more: Any) -> Ended:
        return self.wait(self.start(*argv, fault=fault, **more))


@pytest.fixture(scope="session")
def commands(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    running = Commands(nano, tmp_path_factory.mktemp("commands"))
    yield running
    assert running.server.stdin is not None
    running.server.stdin.close()
    running.server.wait(timeout=60)


# What a run has made


TIMES = ("seconds", "peak_memory")
"""What differs between two runs that do the same."""


def made(folder: Path) -> dict[str, Any]:
    """All that must be the same: the hash of every tensor of the last checkpoint, its state, and the journal."""
    found = newest(folder / "checkpoints")
    assert found is not None, f"{folder} has no checkpoint that verifies"
    parts, state = read_checkpoint(found)
    hashes = {
        f"{part}.{name}": hashlib.sha256(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for part, tensors in parts.items() for name, tensor in tensors.items()
    }  # fmt: skip
    return {
        "step": found.name,
        "tensors": hashes,
        "state": timeless(state),
        "journal": [timeless(record) for record in read_journal(folder / "metrics.jsonl")],
    }


def timeless(said: Any) -> Any:
    if isinstance(said, Mapping):
        return {key: timeless(value) for key, value in said.items() if key not in TIMES}
    return [timeless(value) for value in said] if isinstance(said, list) else said


@pytest.fixture(scope="session")
def made_in() -> Callable[[Path], dict[str, Any]]:
    return made


@pytest.fixture(scope="session")
def train(catalog: Catalog) -> Callable[..., Path]:
    """Trains in this process; gives the folder."""

    def run(recipe: Path, folder: Path, *overrides: str, **more: Any) -> Path:
        train_recipe(load_recipe(str(recipe), overrides), catalog, folder, "cpu", **more)
        return folder

    return run


@pytest.fixture(scope="session")
def whole(nano: Path, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small recipe that nobody has touched."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = commands.run("train", nano, "--out", folder, "--device", "cpu")
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture
def a_run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "a_run"))


# Trials


@dataclass
class Trials:
    """How often something was tried, and what went wrong. Printed, and kept where MUTOSCOPE_TRIALS names a file."""

    row: str
    seed: int = 0
    trials: int = 0
    failures: list[str] | None = None

    def tried(self, failed: str = "") -> None:
        self.trials += 1
        if failed:
            self.failures = [*(self.failures or []), failed]


@pytest.fixture
def trials() -> Callable[..., Any]:
    """`with trials("row") as tally:`; at its end there must be trials and no failure."""

    @contextmanager
    def tallied(row: str, seed: int = 0, least: int = 1) -> Iterator[Trials]:
        tally, began = Trials(row, seed), time.monotonic()
        try:
            yield tally
        finally:
            failed = tally.failures or []
            said = {"row": row, "trials": tally.trials, "failures": len(failed),
                    "seconds": round(time.monotonic() - began, 1), "seed": seed}  # fmt: skip
            print(json.dumps(said))
            if place := os.environ.get("MUTOSCOPE_TRIALS"):
                with open(place, "a", encoding="utf-8") as file:
                    file.write(json.dumps(said) + "\n")
        assert not failed, f"{len(failed)} of {tally.trials}: " + "\n".join(failed[:60])
        assert tally.trials >= least, f"only {tally.trials} trials"

    return tallied
