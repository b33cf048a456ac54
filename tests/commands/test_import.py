"""`import`: published and pickled checkpoints become safetensors, and nothing in them is run."""

from __future__ import annotations

import ast
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mutoscope
from mutoscope.commands import import_
from mutoscope.core.errors import InputError
from mutoscope.core.storage.weights import load_tensors, save_tensors
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe

REPOSITORY = Path(mutoscope.__file__).parent


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(3).half(), "b": torch.arange(5)}


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A child process costs the seconds of torch's import: its function is called here, and what it said is kept."""
    told: list[dict] = []

    def read(file: Path, key: str | None, out: Path) -> dict:
        told.append(import_.child(str(file), str(out), key or ""))
        if "error" in told[-1]:
            raise InputError(f"{file}: {told[-1]['error']}")
        return told[-1]

    monkeypatch.setattr(import_, "limit", lambda memory: None)
    monkeypatch.setattr(import_, "read_pickled", read)
    return told


def test_a_pickled_state_dict(verb: Callable, tensors: dict, tmp_path: Path):
    torch.save({"state_dict": tensors, "epoch": 3, "args": {"lr": 0.1}}, tmp_path / "model.pt")
    said = verb("import", tmp_path / "model.pt", "--out", tmp_path / "out.safetensors", "--json")
    assert said.code == 0, said.err
    assert same(load_tensors(tmp_path / "out.safetensors"), tensors)
    assert said.json == {
        "file": str(tmp_path / "out.safetensors"),
        "tensors": 3,
        "parameters": 20,
        "left_out": ["epoch", "args.lr"],
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "out.safetensors"]


def test_one_of_several_sets(verb: Callable, refused: Callable, inline: list, tensors: dict, tmp_path: Path):
    torch.save({"model": tensors, "ema": {n: t + 1 for n, t in tensors.items()}}, tmp_path / "model.ckpt")
    out = tmp_path / "out.safetensors"
    assert "several sets of tensors: model, ema; choose one with --key" in refused(
        "import", tmp_path / "model.ckpt", "--out", out
    )
    assert not out.exists()
    assert verb("import", tmp_path / "model.ckpt", "--out", out, "--key", "ema").code == 0
    assert torch.equal(load_tensors(out)["b"], tensors["b"] + 1)
    assert "under 'emma'" in refused("import", tmp_path / "model.ckpt", "--out", tmp_path / "x.st", "--key", "emma")


def test_renames(verb: Callable, tensors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    save_tensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "map.json").write_text(json.dumps({"a.": "layer.", "a.bias": "shift", "b": None}))
    said = verb("import", "model.safetensors", "--map", "map.json", "--out", "new.safetensors")
    assert said.lines == ["new.safetensors"]
    assert same(
        load_tensors(tmp_path / "new.safetensors"), {"layer.weight": tensors["a.weight"], "shift": tensors["a.bias"]}
    )


@pytest.mark.parametrize(
    ("map", "said"),
    [
        ('{"nothing": "x"}', "no tensor is called this"),
        ('{"b": "a.bias"}', "two tensors one name"),
        ("[1]", "must be a mapping"),
        ("{", "no readable JSON"),
    ],
)
def test_wrong_renames(map: str, said: str, refused: Callable, tensors: dict, tmp_path: Path):
    save_tensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "map.json").write_text(map)
    out = tmp_path / "new.safetensors"
    assert said in refused("import", tmp_path / "model.safetensors", "--map", tmp_path / "map.json", "--out", out)
    assert not out.exists()


def test_against_a_part(verb: Callable, refused: Callable, inline: list, trained: Path, tmp_path: Path):
    """What fits a part imports, and is its weights; what does not is refused with the first difference."""
    recipe = load_recipe(trained / "recipe.yaml")
    part = assemble(recipe, Catalog.load(), "cpu", seed=4).model.denoiser  # type: ignore[union-attr]
    torch.save(part.state_dict(), tmp_path / "dit.pt")
    words = ("import", tmp_path / "dit.pt", "--part", "denoiser:dit", "--recipe", trained / "recipe.yaml", "--out")
    assert "dit wants [" in refused(*words, tmp_path / "x.safetensors", "denoiser.width=32")
    assert "the recipe has no such part" in refused(
        "import", tmp_path / "dit.pt", "--part", "denoisr", "--recipe", trained / "recipe.yaml", "--out", tmp_path / "y"
    )
    assert not (tmp_path / "x.safetensors").exists()
    said = verb(*words, tmp_path / "dit.safetensors")
    assert said.code == 0, said.err
    again = load_recipe(trained / "recipe.yaml", [f"denoiser.weights={tmp_path / 'dit.safetensors'}"])
    loaded = assemble(again, Catalog.load(), "cpu", seed=5).model.denoiser  # type: ignore[union-attr]
    assert same(loaded.state_dict(), part.state_dict())


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def hostile(folder: Path) -> dict[str, Path]:
    canary = folder / "canary"
    (folder / "pickle.pt").write_bytes(pickle.dumps(Evil(canary)))
    torch.save({"w": torch.zeros(2), "x": Evil(canary)}, folder / "saved.pt")
    torch.save({"w": torch.zeros(2), "x": Evil(canary)}, folder / "old.bin", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(folder / "zip.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil(canary)))
        file.writestr("../../escape", "x")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pt")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "noise.ckpt").write_bytes(bytes(range(256)) * 8)
    whole = folder / "saved.pt"
    (folder / "cut.pt").write_bytes(whole.read_bytes()[:-40])
    (folder / "noise.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    torch.save({"epoch": 1}, folder / "no_tensors.pt")
    return {p.name: p for p in sorted(folder.iterdir())}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_hostile_files_run_nothing(refused: Callable, tmp_path: Path, inline: list):
    """Each is refused in one line."""
    (tmp_path / "files").mkdir()
    files = hostile(tmp_path / "files")
    for name, file in files.items():
        refused("import", file, "--out", tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists(), name
    assert len(inline) == len(files) - 1
    assert {p.name for p in (tmp_path / "files").iterdir()} == set(files)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["files"]


def test_the_environment_cannot_talk_it_into_more(refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a real child process."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"w": torch.zeros(2), "x": Evil(tmp_path / "canary")}, tmp_path / "saved.pt")
    said = refused("import", tmp_path / "saved.pt", "--out", tmp_path / "out.safetensors")
    assert "is not a file of weights alone" in said
    assert [p.name for p in tmp_path.iterdir()] == ["saved.pt"]


def test_the_child_is_limited(tmp_path: Path):
    """A file that says it is larger than it may be does not get the memory."""
    import subprocess
    import sys

    code = (
        "from mutoscope.commands.import_ import limit\nimport torch\nlimit(64 << 20)\n"
        "try:\n    torch.zeros(1 << 28)\nexcept (RuntimeError, MemoryError):\n    print('refused')\n"
        "try:\n    files = [open('/dev/null') for _ in range(100)]\nexcept OSError:\n    print('few files')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[:2] == ["refused", "few files"]


def test_a_child_that_dies_is_one_line(refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model.pt").write_bytes(b"x")
    monkeypatch.setattr(import_.sys, "executable", "/bin/false")
    assert "the process that read it ended with 1" in refused("import", tmp_path / "model.pt", "--out", tmp_path / "o")


def test_mistakes(refused: Callable, tensors: dict, tmp_path: Path):
    assert "no such file" in refused("import", tmp_path / "nowhere.pt")
    save_tensors(tmp_path / "model.safetensors", tensors)
    out = tmp_path / "out.safetensors"
    assert "is there already" in refused(
        "import", tmp_path / "model.safetensors", "--out", tmp_path / "model.safetensors"
    )
    assert "its folder is not there" in refused("import", tmp_path / "model.safetensors", "--out", tmp_path / "a" / "b")
    assert 'did you mean "a"' in refused("import", tmp_path / "model.safetensors", "--out", out, "--key", "aa")


def test_nothing_else_reads_pickles():
    """`torch.load`, pickle and what else runs data are in `commands/import_.py`, once, or nowhere."""
    found = []
    for file in sorted(REPOSITORY.rglob("*.py")):
        place = file.relative_to(REPOSITORY)
        if place.parts[0] in ("tests", ".typing", "build", ".venv"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            forbidden = {"torch.load", "eval", "exec", "yaml.load", "pickle.load", "pickle.loads"}
            if name in forbidden or {"pickle", "dill", "cloudpickle", "joblib", "shelve"} & set(modules):
                found.append((str(place), name or modules[0]))
    assert found == [("commands/import_.py", "torch.load")]
