"""A study small enough to run in seconds, run once for all tests that read what it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mutoscope.benchmarks.comparison import compare
from mutoscope.benchmarks.study import Study, choose_study
from mutoscope.commands.main import main
from mutoscope.core.training.progress import Silence

NANO = """
data: {type: shapes, frames: 5, size: [8, 8], clips: 40, held: 24}
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
    - {learn: autoencoder, objective: reconstruction, steps: 4, seed: 0}
    - {learn: denoiser, steps: 12}
metrics: [caption]
"""

STUDY = """
title: Shallow against <deep>
question: Does the page hold?
recipe: nano.yaml
arms:
  shallow:
  deep: {denoiser.depth: 3}
seeds: [0, 1]
evaluate: {clips: 8, reference: 16}
show: 2
"""

PLUGIN = '''
"""Two denoisers of a third party: one that works, and one that breaks once it is given numbers."""

import torch
from torch import nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.plugin import hookimpl
from mutoscope.core.process import LevelProcess


class Flat(LevelDenoiser):
    """One linear layer per token."""

    name = "flat"

    def __init__(self, tokens: TokenFact, given: ConditioningFact, process: LevelProcess) -> None:
        super().__init__()
        self.layer = nn.Linear(tokens.width, process.output_width(tokens))

    def forward(self, tokens, level, conditioning):
        return self.layer(tokens.values)


class Broken(LevelDenoiser):
    """Counts like a denoiser, and fails at the first step."""

    name = "broken"

    def __init__(self, tokens: TokenFact, given: ConditioningFact, process: LevelProcess) -> None:
        super().__init__()
        self.layer = nn.Linear(tokens.width, process.output_width(tokens))

    def forward(self, tokens, level, conditioning):
        if tokens.values.device.type != "meta":
            raise RuntimeError("the lamp\\nhas burnt out")
        return self.layer(tokens.values)


@hookimpl
def mutoscope_components():
    return [Flat, Broken]
'''


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the nano recipe, its study and a plugin file."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "nano.yaml").write_text(NANO)
    (folder / "study.yaml").write_text(STUDY)
    (folder / "lamp.py").write_text(PLUGIN)
    return folder


@pytest.fixture(scope="session")
def study(desk: Path) -> Study:
    return choose_study([str(desk / "study.yaml")], [], [], [], None, None, None)


@pytest.fixture(scope="session")
def finished(desk: Path, study: Study) -> Path:
    """The folder of the study, run to its end."""
    compare(study, desk / "runs" / "study", Silence(), "cpu", "mutoscope compare study.yaml")
    return desk / "runs" / "study"


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]):
    """Runs a command line in this process: exit code, standard output, standard error."""

    def run(*words: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return int(done.value.code or 0), said.out, said.err

    return run
