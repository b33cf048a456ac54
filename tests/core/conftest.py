"""A recipe small enough to train in a second, and ways to train it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mutoscope.core.storage.checkpoint import newest, read_checkpoint
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import train_recipe

NANO = """
data: {type: shapes, frames: 5, size: [8, 8], clips: 40}
autoencoder: {type: causal_kl, channels: 4, stride: [2, 4, 4], width: 8, depth: 1}
patchifier: {type: spacetime, size: [1, 1, 1]}
conditioner: {type: text, width: 16, depth: 1, heads: 2, length: 12}
denoiser: {type: dit, width: 16, depth: 2, heads: 2}
objective: flow
sampler: {type: euler, steps: 2, guidance: 2.0}
training:
  batch: 8
  lr: 1.0e-3
  warmup: 2
  checkpoint_every: 4
  log_every: 1
  ema: 0.9
  phases:
    - {learn: autoencoder, objective: reconstruction, steps: 6}
    - {learn: denoiser, steps: 9}
metrics: [caption]
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "nano.yaml"
    path.write_text(NANO)
    return path


@pytest.fixture
def trained(nano: Path, catalog: Catalog) -> Callable[..., dict]:
    """Trains the recipe with overrides into a folder; gives the last checkpoint's tensors and state."""

    def run(folder: Path, *overrides: str, store: bool = False) -> dict:
        recipe = load_recipe(str(nano), overrides)
        train_recipe(
            recipe, catalog, folder, "cpu", store=folder.parent / (".phases" if store else f".p-{folder.name}")
        )
        found = newest(folder / "checkpoints")
        assert found is not None
        parts, state = read_checkpoint(found)
        return {"parts": parts, "state": state, "step": found.name}

    return run


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The command line in a child process."""
    return [sys.executable, "-c", "from mutoscope.commands.main import main; main()"]
