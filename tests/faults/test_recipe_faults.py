"""Recipes with one mistake: refused in one line that says where and what, and the word that was meant."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mutoscope.core.errors import InputError
from mutoscope.registry.assembly import assemble
from mutoscope.registry.recipe import load_recipe

spec = spec_from_file_location("recipe_faults", Path(__file__).with_name("recipe_faults.py"))
assert spec is not None and spec.loader is not None
recipe_faults = sys.modules["recipe_faults"] = module_from_spec(spec)
spec.loader.exec_module(recipe_faults)
QUICK = 300
MANY = 5000
PATIENCE = 20
"""Seconds of the processor, far above what any refusal takes, so that only a runaway exceeds it."""


@pytest.mark.parametrize("base", range(3))
def test_the_recipes_are_right_before(base, catalog, tmp_path):
    """Else every mistake would be found for the wrong reason."""
    path = tmp_path / "recipe.yaml"
    path.write_text((recipe_faults.PIXELS, recipe_faults.LATENTS, recipe_faults.CRITICS)[base])
    assemble(load_recipe(path), catalog, device="meta")


@pytest.mark.parametrize("count", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
def test_every_mistake_is_one_line(count, catalog, trials, tmp_path):
    faults = recipe_faults.Faults(catalog, seed=count)
    path, typos, right, kinds, missed = tmp_path / "recipe.yaml", 0, 0, Counter(), Counter()
    with trials("recipes with one mistake", seed=count, least=count) as tally:
        for trial in range(count):
            fault = faults.one()
            recipe_faults.write(path, fault)
            start = time.process_time()
            said = refusal(path, catalog)
            spent = time.process_time() - start
            kinds[fault.kind] += 1
            tally.tried(wrong(said, path, fault, spent, trial))
            if fault.meant and said is not None:
                typos += 1
                hit = f'did you mean "{fault.meant}"?' in said
                right += hit
                missed[f"{fault.kind}: {said}"] += not hit
        assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"], "a refused recipe writes nothing"
    print(dict(kinds), f"typos {right} of {typos}", *[m for m, n in missed.items() if n][:20], sep="\n")
    with trials("the word that was meant is suggested", seed=count) as tally:
        tally.trials = typos
        assert right >= 0.95 * typos, f"{right} of {typos}; {[m for m, n in missed.items() if n][:20]}"


def refusal(path: Path, catalog) -> str | None:
    """What is said of a recipe; None where it is accepted: on the meta device, which is fast and refuses what does not
    fit, and then with weights, as the command does, which refuses also what has nothing to train."""
    try:
        for device in ("meta", "cpu"):
            assemble(load_recipe(path), catalog, device=device)
    except InputError as error:
        return str(error)
    except Exception as error:
        return f"!! {type(error).__name__}: {error}"
    return None


def wrong(said: str | None, path: Path, fault, spent: float, trial: int) -> str:
    """What is wrong with a refusal; empty where nothing is."""
    what = f"trial {trial}, {fault.kind}"
    if said is None:
        return f"{what}: accepted:\n{fault.text[:600]}"
    if said.startswith("!!") or "Traceback" in said:
        return f"{what}: {said[:300]}\n{fault.text[:600]}"
    if len(said.splitlines()) != 1 and fault.kind != "misfit":
        return f"{what}: {len(said.splitlines())} lines: {said[:600]}"
    if not all(re.match(re.escape(str(path)) + r":\d+: ", line) for line in said.splitlines()):
        return f"{what}: no place: {said[:300]}"
    if longest := max((line for line in said.replace(str(path), "").splitlines() if len(line) > 700), default=""):
        return f"{what}: {len(longest)} characters: {longest}"
    # No recipe takes long to refuse, on a machine that has other work too.
    return f"{what}: {spent:.1f} s" if spent > PATIENCE else ""


def test_as_commands(commands, catalog, trials, tmp_path):
    """Exit code 2, one line on standard error, nothing on standard output, no file written."""
    faults = recipe_faults.Faults(catalog, seed=7)
    with trials("recipes with one mistake, as commands", seed=7, least=12) as tally:
        for n in range(12):
            fault = faults.one()
            place = tmp_path / str(n)
            place.mkdir()
            path = recipe_faults.write(place / "recipe.yaml", fault)
            done = commands.run("train", path, "--device", "cpu", cwd=place)
            there = sorted(p.name for p in place.rglob("*"))
            lines = len(done.lines) == 1 or (fault.kind == "misfit" and done.lines)
            whole = done.code == 2 and lines and not done.stdout and there == ["recipe.yaml"]
            tally.tried("" if whole else f"{fault.kind}: {done.code} {done.stderr[:400]} {there}")
