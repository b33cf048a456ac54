"""Plugin files with `--plugin` and in recipes; and broken ones, which cost only themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mutoscope.commands.new import source

OWN = source("denoiser", "mine")
BROKEN = {
    "import_error": ("import nowhere_to_be_found", "failed to import: ModuleNotFoundError"),
    "exits": ("import sys; sys.exit(0)", "failed to import: SystemExit"),
    "raises": ("raise RuntimeError('not\\ntoday')", "failed to import: RuntimeError"),
    "clash": (source("denoiser", "dit"), "failed to offer: ValueError"),
    "rubbish": (OWN.replace("return [Mine]", "return [3]"), "failed to offer: TypeError"),
    "offer_exits": (OWN.replace("return [Mine]", "raise SystemExit(0)"), "failed to offer: SystemExit"),
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path / "mine.py"


def test_a_plugin_file_is_a_plugin(verb: Callable, own: Path):
    assert ("denoiser", "mine") not in {(r["role"], r["name"]) for r in verb("list", "--json").json}
    assert ("denoiser", "mine") in {(r["role"], r["name"]) for r in verb("list", "--plugin", own, "--json").json}
    [row] = [row for row in verb("plugins", "--plugin", own, "--json").json if row["plugin"] == "mine"]
    assert (row["origin"], row["status"], row["offers"]) == (str(own), "works", ["denoiser mine"])
    told = verb("describe", "quickstart", "denoiser=mine", "--plugin", own, "--json").json
    assert told["parts"]["denoiser"]["type"] == "mine"
    assert "denoiser.mine" in verb("schema", "--plugin", own).json["$defs"]


def test_a_recipe_names_its_plugin_file(verb: Callable, refused: Callable, own: Path):
    recipe = own.parent / "own.yaml"
    recipe.write_text("extends: quickstart\nplugins: [mine.py]\ndenoiser: mine\n")
    assert verb("describe", recipe, "--json").json["parts"]["denoiser"]["type"] == "mine"
    recipe.write_text("extends: quickstart\ndenoiser: mine\n")
    assert f"{recipe}:2: denoiser: unknown denoiser 'mine'" in refused("describe", recipe)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_costs_only_itself(case: str, verb: Callable, refused: Callable, own: Path):
    code, reason = BROKEN[case]
    broken = own.with_name("broken.py")
    broken.write_text(code)
    plugins = ("--plugin", broken, "--plugin", own)
    rows = {row["plugin"]: row for row in verb("plugins", *plugins, "--json").json}
    assert rows["broken"]["status"].startswith(reason)
    assert "\n" not in rows["broken"]["status"]
    assert rows["mine"]["status"] == "works"
    listed = {(row["role"], row["name"]): row["plugin"] for row in verb("list", *plugins, "--json").json}
    assert (listed["denoiser", "mine"], listed["denoiser", "dit"]) == ("mine", "diffusion")
    assert "broken" not in listed.values()
    assert verb("describe", "quickstart", "denoiser=mine", *plugins).code == 0
    said = refused("describe", "quickstart", "denoiser=brokn", *plugins)
    assert "plugin broken failed to" in said
    assert refused("check", broken, code=1).startswith("mutoscope: plugin broken failed to")


def test_a_plugin_file_that_is_not_there(refused: Callable, tmp_path: Path):
    for words in (("list",), ("plugins",), ("describe", "quickstart"), ("train", "quickstart"), ("schema",)):
        assert "no such plugin file" in refused(*words, "--plugin", tmp_path / "nowhere.py"), words
