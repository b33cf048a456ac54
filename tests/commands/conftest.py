"""A recipe small enough to train in a second, trained once, and the command line in process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mutoscope.commands.main import main
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.loading import Loader
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import train_recipe

NANO = """
data: {type: shapes, frames: 5, size: [8, 8], clips: 40, held: 24}
autoencoder: {type: causal_kl, channels: 4, stride: [2, 4, 4], width: 8, depth: 1}
patchifier: {type: spacetime, size: [1, 1, 1]}
conditioner: {type: text, width: 16, depth: 1, heads: 2, length: 12}
denoiser: {type: dit, width: 16, depth: 2, heads: 2}
sampler: {type: euler, steps: 2, guidance: 2.0}
training:
  batch: 8
  lr: 1.0e-3
  warmup: 2
  ema: 0.9
  phases:
    - {learn: autoencoder, objective: reconstruction, steps: 3}
    - {learn: denoiser, objective: flow, steps: 3}
metrics: [caption]
"""
STAGED = """
data: {type: shapes, frames: 5, size: [16, 16], clips: 40, held: 24}
stages:
  - name: small
    view: {frames: 3, size: [8, 8]}
    autoencoder: identity
    patchifier: {type: spacetime, size: [1, 4, 4]}
    conditioner: [{type: text, width: 16, depth: 1, heads: 2, length: 12}, {type: label, width: 8}]
    denoiser: {type: dit, width: 16, depth: 1, heads: 2}
    objective: flow
    sampler: {type: euler, steps: 2}
  - name: large
    autoencoder: identity
    patchifier: {type: spacetime, size: [1, 8, 8]}
    conditioner: {type: actions, width: 8}
    denoiser: {type: dit, width: 16, depth: 1, heads: 2}
    objective: flow
    sampler: {type: heun, steps: 2}
training: {batch: 8, steps: 2, warmup: 1}
metrics: [caption]
"""


@dataclass
class Said:
    """What a verb printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


LOADED: list[Any] = []


@pytest.fixture(autouse=True)
def one_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the environment's plugins takes a second and always gives the same."""
    load = Loader.load_installed

    def once(loader: Loader, entries: Any = None) -> None:
        if entries is not None or loader.strict:
            load(loader, entries)
            return
        if not LOADED:
            load(loader)
            LOADED.extend([list(loader.plugins), list(loader.failures), dict(loader._owners)])
        loader.plugins, loader.failures, loader._owners = list(LOADED[0]), list(LOADED[1]), dict(LOADED[2])

    monkeypatch.setattr(Loader, "load_installed", once)


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command line with some words."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return Said(int(left.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def refused(verb: Callable[..., Said]) -> Callable[..., str]:
    """Runs the command line with words that are a user's mistake; gives the one line that it says."""

    def run(*words: object, code: int = 2) -> str:
        said = verb(*words)
        lines = said.err.strip().splitlines()
        assert said.code == code, said
        assert len(lines) == 1, said.err
        assert lines[0].startswith("mutoscope: "), said.err
        assert "Traceback" not in said.err
        assert "(--debug shows where)" not in said.err
        return lines[0]

    return run


def _trained(text: str, folder: Path) -> Path:
    recipe = folder / "nano.yaml"
    recipe.write_text(text)
    train_recipe(load_recipe(str(recipe)), Catalog.load(), folder / "run", "cpu")
    return folder / "run"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, to be read only."""
    return _trained(NANO, tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="session")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of a cascade, to be read only."""
    return _trained(STAGED, tmp_path_factory.mktemp("cascade"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A trained run of one's own."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
