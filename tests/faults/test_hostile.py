"""Files that would do something: whatever they come in through, nothing in them is run."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mutoscope
from mutoscope.commands.import_ import read_pickled
from mutoscope.core.errors import MutoscopeError
from mutoscope.core.storage.journal import read_journal
from mutoscope.core.storage.weights import load_tensors, save_tensors
from mutoscope.plugins.data.listing import list_folder
from mutoscope.registry.assembly import assemble
from mutoscope.registry.pretrained import open_model
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import load

ROOT = Path(mutoscope.__file__).parent


class Evil:
    """Unpickled it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


RECIPE = """
data: {type: shapes, frames: 5, size: [8, 8], clips: 20, held: 8}
autoencoder: identity
patchifier: {type: spacetime, size: [1, 4, 4]}
conditioner: {type: text, width: 16, depth: 1, heads: 2, length: 12}
denoiser: {type: dit, width: 16, depth: 1, heads: 2}
objective: flow
sampler: {type: euler, steps: 2}
training: {batch: 4, steps: 2}
"""


@pytest.fixture
def corpus(tmp_path: Path, a_run: Path, catalog) -> dict[str, Callable[[], object]]:
    """Ways in, each with a file that would make the canary."""
    canary, place = tmp_path / "canary", tmp_path / "files"
    place.mkdir()
    touch = f"touch {canary}"
    ways: dict[str, Callable[[], object]] = {}

    def recipe(name: str, text: str, *overrides: str) -> None:
        path = place / f"{name}.yaml"
        path.write_text(text)
        ways[name] = lambda: assemble(load_recipe(str(path), overrides), catalog, device="cpu")

    recipe("yaml_apply", RECIPE.replace("flow", f"!!python/object/apply:os.system ['{touch}']"))
    recipe("yaml_new", f"!!python/object/new:os.system ['{touch}']\n")
    recipe("yaml_name", RECIPE.replace("flow", "!!python/name:os.system x"))
    recipe("yaml_module", RECIPE.replace("flow", "!!python/module:antigravity x"))
    recipe("target", RECIPE.replace("objective: flow", f"objective: {{_target_: os.system, command: '{touch}'}}"))
    recipe("dotted", RECIPE.replace("objective: flow", f"objective: {{type: os.system, command: '{touch}'}}"))
    recipe("dunder", RECIPE.replace("type: dit", "type: __import__"))
    recipe("shell", RECIPE + f"name: $({touch})\n")
    recipe("interpolated", RECIPE.replace("length: 12", f"length: '${{oc.exec:{touch}}}'"))
    recipe("override", RECIPE, f"objective=!!python/object/apply:os.system ['{touch}']")
    recipe("override_path", RECIPE, "denoiser.type=mutoscope.plugins.diffusion.dit.Dit")
    recipe("extends", f"extends: '| {touch}'\n" + RECIPE)
    recipe("plugin_name", f"plugins: ['$({touch}).py']\n" + RECIPE)
    recipe("weights", RECIPE.replace("type: dit", f"type: dit, weights: {place}/saved.pt"))
    recipe("metrics_word", RECIPE + "metrics: [os.system]\n")
    recipe(
        "optimizer",
        RECIPE.replace("steps: 2}\ntraining", "steps: 2}\ntraining").replace(
            "batch: 4", "optimizer: os.system, batch: 4"
        ),
    )

    (place / "pickle.pkl").write_bytes(pickle.dumps(Evil(canary)))
    torch.save({"w": torch.zeros(2), "x": Evil(canary)}, place / "saved.pt")
    torch.save({"w": torch.zeros(2), "x": Evil(canary)}, place / "old.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(place / "zip.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(canary)))
        archive.writestr("../../canary", "x")
    with tarfile.open(place / "tar.pt", "w") as archive:
        for name in ("../canary", str(canary)):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
    for name in ("pickle.pkl", "saved.pt", "old.pt", "zip.pt", "tar.pt"):
        ways[f"import {name}"] = lambda name=name: read_pickled(place / name, None, tmp_path / "read.safetensors")
        ways[f"weights {name}"] = lambda name=name: load_tensors(place / name)

    def changed(name: str, change: Callable[[Path], None], use: Callable[[Path], object]) -> None:
        folder = Path(shutil.copytree(a_run, place / name))
        change(folder)
        ways[name] = lambda: use(folder)

    evil = pickle.dumps(Evil(canary))
    changed("run_with_a_pickle", lambda f: _every(f, "extra.pkl", evil), lambda f: load(f, "cpu"))
    changed("run_of_a_pickle", lambda f: _every(f, "model.safetensors", evil), lambda f: load(f, "cpu"))
    changed(
        "state_that_names_code",
        lambda f: _every(f, "state.json", json.dumps({"_instantiator": "os.system", "x": touch}).encode()),
        lambda f: load(f, "cpu"),
    )
    changed(
        "recipe_of_a_run",
        lambda f: _put(f / "recipe.yaml", (f / "recipe.yaml").read_bytes().replace(b"dit", b"os.system")),
        lambda f: load(f, "cpu"),
    )
    changed(
        "journal",
        lambda f: _put(f / "metrics.jsonl", evil + b"\n[" + b"[" * 90000),
        lambda f: read_journal(f / "metrics.jsonl"),
    )
    changed(
        "run_json",
        lambda f: _put(f / "run.json", b"[" * 90000),
        lambda f: assemble(load_recipe(str(f / "recipe.yaml")), catalog),
    )

    model = place / "pretrained"
    model.mkdir()
    (model / "model.json").write_text(json.dumps({"format": 1, "_class_name": "os.system", "stages": [touch]}))
    ways["pretrained"] = lambda: open_model(model, "cpu", [])
    tensors = place / "notes.safetensors"
    save_tensors(tensors, {"w": torch.zeros(2)}, {"_instantiator": "os.system", "config": touch})
    ways["safetensors_notes"] = lambda: load_tensors(tensors)

    for name, line in {
        "metadata_dots": {"file_name": "../canary", "caption": "x"},
        "metadata_path": {"file_name": str(canary), "caption": "x"},
        "metadata_shell": {"file_name": f"$({touch})", "caption": f"$({touch})"},
    }.items():
        folder = place / name
        folder.mkdir()
        (folder / "a.mp4").write_bytes(b"x")
        (folder / "metadata.jsonl").write_text(json.dumps(line))
        ways[name] = lambda folder=folder: list_folder(folder, True, (0.0, 0.0))
    return ways


def _every(folder: Path, name: str, content: bytes) -> None:
    """The same file in every checkpoint of a run."""
    for path in (folder / "checkpoints").iterdir():
        _put(path / name, content)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_the_canary_is_never_made(corpus: dict, trials: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Refused in one line, or taken for the plain data it is; never run. A child process reads what is pickled."""
    monkeypatch.chdir(tmp_path)
    harmless = {"journal", "run_json", "safetensors_notes", "override_path"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    outside = {path: path.exists() for path in (tmp_path / "canary", tmp_path.parent / "canary", Path("/tmp/canary"))}
    with trials("hostile files", least=20) as tally:
        for name, use in corpus.items():
            failed = ""
            try:
                use()
                failed = "" if name in harmless else f"{name}: was taken"
            except MutoscopeError as error:
                failed = "" if "Traceback" not in str(error) and "\n" not in str(error) else f"{name}: {error}"
            except Exception as error:
                failed = f"{name}: {type(error).__name__}: {error}"
            if (tmp_path / "canary").exists():
                failed = f"{name}: the canary is there"
                (tmp_path / "canary").unlink()
            tally.tried(failed)
    assert {path: path.exists() for path in outside} == outside


def test_a_pickle_does_run_where_it_is_read_without_care(tmp_path: Path):
    """The canary sings: what is tested above would fail if the files were read by pickle."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Evil(canary)))
    assert canary.exists()


# What the source never calls

MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "yaml",
    "runpy",
    "code",
}
CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.package.PackageImporter", "torch.hub.load", "os.system",
    "os.popen", "os.execv", "os.execvp", "os.spawnv", "subprocess.getoutput", "subprocess.getstatusoutput",
    "tempfile.mktemp", "shutil.unpack_archive", "numpy.load", "np.load", "torch.jit.load",
}  # fmt: skip
METHODS = {"extractall", "extract", "full_load", "unsafe_load"}
ALLOWED = {("commands/import_.py", "torch.load")}
"""The import verb's child process, weights-only and limited."""


def test_nothing_in_the_source_runs_what_it_reads():
    found = set()
    for file in sorted(ROOT.rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name.startswith(("tests/", ".", "build/")):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found |= {(name, said) for said in _forbidden(node)}
    assert found == ALLOWED
    text = (ROOT / "commands" / "import_.py").read_text(encoding="utf-8")
    assert text.count("torch.load(") == 1
    assert "weights_only=True" in text


def _forbidden(node: ast.AST) -> set[str]:
    """What a node of the syntax tree does that nothing may do."""
    said: set[str] = set()
    if isinstance(node, ast.Import):
        said |= {alias.name for alias in node.names if alias.name.split(".")[0] in MODULES}
    elif isinstance(node, ast.ImportFrom) and not node.level:
        said |= {node.module or ""} if (node.module or "").split(".")[0] in MODULES else set()
        said |= {f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in CALLS}
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called in CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
            said.add(called)
        if any(
            k.arg == "shell" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
            for k in node.keywords
        ):
            said.add("shell=")
        for k in node.keywords:
            if k.arg in ("allow_pickle", "trust_remote_code"):
                said |= set() if isinstance(k.value, ast.Constant) and k.value.value is False else {k.arg}
    return said


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from torch import load", "import torch\ntorch.load('x')", "eval('1')", "exec('x')",
     "import subprocess\nsubprocess.run('ls', shell=True)", "import os\nos.system('x')", "archive.extractall()",
     "import numpy as np\nnp.load('x', allow_pickle=True)", "import yaml", "import marshal.x", "from pickle import loads"],
)  # fmt: skip
def test_it_would_be_found(text: str):
    assert any(_forbidden(node) for node in ast.walk(ast.parse(text)))
