"""Two processes on one machine give the losses of one, and their checkpoint resumes on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mutoscope.core.storage.checkpoint import newest, read_checkpoint
from mutoscope.core.storage.journal import read_journal


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_journal(folder / "metrics.jsonl")]


def torchrun(nano: Path, folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    script = folder.parent / "start.py"
    script.write_text("from mutoscope.commands.main import main\nmain()\n")
    call = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv-backend=c10d",
            "--rdzv-endpoint=localhost:0", str(script), "train", str(nano), *overrides, "--out", str(folder), "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(call, env=environment, capture_output=True, text=True, cwd=folder.parent, timeout=300)


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_give_the_losses_of_one(trained, nano: Path, tmp_path: Path, shard: bool):
    alone = trained(tmp_path / "alone")
    done = torchrun(nano, tmp_path / "two", f"training.shard={str(shard).lower()}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5, abs=1e-5)
    found = newest(tmp_path / "two" / "checkpoints")
    assert found is not None
    parts, _ = read_checkpoint(found)
    for name, tensor in alone["parts"]["model"].items():
        torch.testing.assert_close(tensor, parts["model"][name], atol=1e-4, rtol=1e-3)


def test_their_checkpoint_resumes_on_one(trained, nano: Path, tmp_path: Path):
    alone = trained(tmp_path / "alone")
    folder = tmp_path / "two"
    done = torchrun(nano, folder, "training.shard=true")
    assert done.returncode == 0, done.stderr[-3000:]
    middle = sorted((folder / "checkpoints").iterdir())
    for path in middle:  # as if the two had been killed in the last phase
        if read_checkpoint(path)[1]["done"]:
            import shutil

            shutil.rmtree(path)
    text = (folder / "recipe.yaml").read_text()
    assert "shard: true" in text
    trained(folder, "training.shard=true")
    assert losses(folder) == pytest.approx(losses(tmp_path / "alone"), rel=1e-5, abs=1e-5)
    assert alone["state"]["done"]
