"""`new`: what it writes loads, keeps its contract and passes its own test, for every role."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mutoscope.commands.new import USES, source, source_of_test
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.loading import ROLES


def test_every_role_has_a_template():
    assert set(USES) == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_the_written_plugin_passes_its_checks(role: str, verb: Callable, tmp_path: Path):
    said = verb("new", role, "wobbly_2", "--out", tmp_path / "plugins")
    assert said.code == 0, said.err
    part, test = (Path(line) for line in said.lines)
    assert (part.name, test.name) == ("wobbly_2.py", "test_wobbly_2.py")
    for text in (part.read_text(), test.read_text()):
        assert "my_part" not in text
        assert "MyPart" not in text
    checked = verb("check", part, "--json")
    assert checked.code == 0, [row for row in checked.json if not row["passed"]]
    assert {(row["role"], row["part"]) for row in checked.json} == {(role, "wobbly_2")}
    [row] = [row for row in verb("list", role, "--plugin", part, "--json").json if row["name"] == "wobbly_2"]
    assert row["summary"]
    assert row["plugin"] == "wobbly_2"


@pytest.mark.parametrize("roles", [("denoiser",), pytest.param(ROLES, marks=pytest.mark.slow)])
def test_the_written_tests_pass(roles: tuple[str, ...], tmp_path: Path):
    """By pytest, as their authors would run them."""
    for role in roles:
        (tmp_path / f"my_{role}.py").write_text(source(role, f"my_{role}"))
        (tmp_path / f"test_my_{role}.py").write_text(source_of_test(role, f"my_{role}"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 0, said.stdout[-3000:]
    assert " passed" in said.stdout
    assert "skipped" not in said.stdout


def test_the_denoiser_trains(verb: Callable, trained: Path, tmp_path: Path):
    """Its use is printed, and it learns and samples in the place of another."""
    said = verb("new", "denoiser", "mine", "--out", tmp_path)
    part = Path(said.lines[0])
    assert f"mutoscope compare quickstart --swap denoiser=dit,mine --plugin {part}" in said.err
    assert f"mutoscope train quickstart 'denoiser=mine' --plugin {part}" in said.err
    override = "denoiser={type: mine, width: 16, depth: 1, heads: 2}"
    done = verb("train", trained / "recipe.yaml", override, "--plugin", part, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    files = verb("sample", tmp_path / "run", "--plugin", part, "--prompt", "a red circle moves left")
    assert files.code == 0, files.err


def test_a_pretrained_folder_of_a_plugin_file(verb: Callable, refused: Callable, trained: Path, tmp_path: Path):
    part = tmp_path / "mine.py"
    part.write_text(source("denoiser", "mine"))
    override = "denoiser={type: mine, width: 16, depth: 1, heads: 2}"
    verb("train", trained / "recipe.yaml", override, "--plugin", part, "--out", tmp_path / "run")
    assert verb("export", tmp_path / "run", tmp_path / "model", "--plugin", part).code == 0
    said = refused("sample", tmp_path / "model")
    assert f"comes from the plugin file {part}; name that file" in said
    assert verb("sample", tmp_path / "model", "--plugin", part).code == 0


@pytest.mark.parametrize("name", ["tokens", "block", "level_denoiser", "a"])
def test_a_name_that_the_template_uses_too(name: str, verb: Callable, tmp_path: Path):
    verb("new", "denoiser", name, "--out", tmp_path)
    assert verb("check", tmp_path / f"{name}.py").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("denoser", "mine"), 'did you mean "denoiser"'),
        (("denoiser", "Mine"), "called by one word"),
        (("denoiser", "../mine"), "called by one word"),
        (("denoiser", "2d"), "called by one word"),
        (("denoiser", "my-part"), "called by one word"),
        (("denoiser", "größe"), "called by one word"),
        (("denoiser", "_x"), "called by one word"),
        (("denoiser", "class"), "word of Python's"),
        (("denoiser", "random"), "word of Python's"),
        (("denoiser", "weights"), "word of Python's"),
        (("denoiser", "torch"), "word of Python's"),
        (("denoiser",), "Missing argument"),
    ],
)
def test_bad_names(words: tuple[str, ...], said: str, refused: Callable, tmp_path: Path):
    assert said in refused("new", *words, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(refused: Callable, tmp_path: Path):
    (tmp_path / "test_mine.py").write_text("precious")
    assert "is there already; nothing is written" in refused("new", "sampler", "mine", "--out", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["test_mine.py"]
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("new", "sampler", "mine", "--out", tmp_path / "file")


def test_a_written_part_does_not_clash_with_another(verb: Callable, tmp_path: Path):
    """A name that is taken costs the new plugin alone, and `check` says so."""
    (tmp_path / "dit.py").write_text(source("denoiser", "dit"))
    said = verb("check", tmp_path / "dit.py")
    assert said.code == 1
    assert "the denoiser 'dit' is already offered by the plugin diffusion" in said.err
    assert Catalog.load([tmp_path / "dit.py"]).find("denoiser", "dit").__module__.startswith("mutoscope.plugins")  # type: ignore[union-attr]
