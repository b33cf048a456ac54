"""What precision a phase runs at, and what attention does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mutoscope.core.generation import autocast, settled
from mutoscope.core.layers.attention import scaled_attention
from mutoscope.core.training.progress import Silence
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import read_json, train_recipe

CPU = torch.device("cpu")


@pytest.mark.parametrize(("able", "meant"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_the_machine_has_units_for(monkeypatch: pytest.MonkeyPatch, able: bool, meant: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": able}, raising=False)
    assert settled("auto", CPU) == meant
    assert settled("float32", CPU) == "float32"
    assert settled("bfloat16", CPU) == "bfloat16"
    with autocast(CPU, "auto"):
        assert torch.is_autocast_enabled("cpu") == (meant == "bfloat16")


def test_attention_that_learns_on_a_processor_is_float32_within_bfloat16() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 5, 8, requires_grad=True) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v)
    wanted = torch.autograd.grad(expected.square().sum(), (q, k, v))
    with autocast(CPU, "bfloat16"):
        mixed = scaled_attention(q, k, v)
        with torch.no_grad():
            narrow = scaled_attention(q, k, v)
    assert torch.equal(mixed, expected)
    for found, right in zip(torch.autograd.grad(mixed.square().sum(), (q, k, v)), wanted, strict=True):
        assert torch.equal(found, right)
    assert narrow.dtype == torch.bfloat16
    assert 1e-6 < (narrow - expected).abs().max() < 0.05


def test_a_run_says_what_auto_became(
    nano: Path, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `run.json` and to whoever watches; what was trained at another precision is not taken for the same."""
    addresses = set()
    for able, meant in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"amx_bf16": able}, raising=False)
        notes = Notes()
        recipe = load_recipe(
            nano, ["training.precision=auto", "training.phases.0.steps=1", "training.phases.1.steps=1"]
        )
        folder, _, _ = train_recipe(recipe, catalog, tmp_path / meant, "cpu", notes)
        phases = read_json(folder / "run.json")["phases"]
        assert [phase["precision"] for phase in phases] == [meant, meant]
        assert f"precision auto: {meant} on this machine" in notes.said
        addresses.add(phases[-1]["address"])
    assert len(addresses) == 2


class Notes(Silence):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)
