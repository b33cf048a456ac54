"""Studies as files and as command lines: what they make of arms, and one clear line where something is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mutoscope.benchmarks.study import Study, check_protocol, choose_study, read_study, swap_study
from mutoscope.core.errors import InputError
from mutoscope.registry.describe import describe


def chosen(*named: object, swaps=(), overrides=(), plugins=(), seeds=None, clips=8, split=None) -> Study:
    return choose_study([str(word) for word in named], swaps, overrides, plugins, seeds, clips, split)


def written(desk: Path, tmp_path: Path, **changes: str) -> Path:
    """A study file with some lines replaced or added at its end; its recipe lies beside it."""
    (tmp_path / "nano.yaml").write_text((desk / "nano.yaml").read_text())
    told = {"title": "A", "recipe": "nano.yaml", "arms": "{a: {}, b: {denoiser.depth: 3}}", "seeds": "[0, 1]"}
    path = tmp_path / "study.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**told, **changes}.items()))
    return path


def test_arms_spend_the_flops_of_the_first(study: Study):
    shallow, deep = study.arms
    budget = shallow.cost["phases"][-1]["flops"]
    each = deep.cost["phases"][-1]["flops_per_step"]
    steps = deep.recipe.get("training.phases.1.steps")
    assert steps == budget // each < shallow.recipe.get("training.phases.1.steps") == 12
    assert budget - each < deep.cost["phases"][-1]["flops"] <= budget
    assert deep.cost["phases"][-1]["flops"] == describe(deep.recipe, study.catalog)["phases"][-1]["flops"]


def test_matching_steps_leaves_them(desk: Path, tmp_path: Path):
    study = read_study(str(written(desk, tmp_path, match="steps")))
    assert [arm.recipe.get("training.phases.1.steps") for arm in study.arms] == [12, 12]


def test_a_phase_with_its_own_seed_keeps_it(study: Study):
    recipe = study.recipe(study.arms[0], 7)
    assert (recipe.get("training.seed"), recipe.get("training.phases.0.seed")) == (7, 0)


def test_overrides_reach_the_study_or_its_recipe(desk: Path, study: Study):
    changed = read_study(str(desk / "study.yaml"), ["show=1", "evaluate.clips=5", "training.batch=4"])
    assert (changed.show, changed.protocol.clips) == (1, 5)
    assert changed.arms[0].recipe.get("training.batch") == 4
    assert changed.default_folder() != study.default_folder() == replace(study).default_folder()


def test_swaps_make_a_grid(desk: Path):
    study = swap_study(str(desk / "nano.yaml"), {"denoiser": ["flat", "dit"], "sampler": ["euler", "heun"]}, [0],
                       [desk / "lamp.py"])  # fmt: skip
    assert [arm.name for arm in study.arms] == ["flat euler", "flat heun", "dit euler", "dit heun"]
    assert study.arms[3].recipe.get("denoiser.width") == 16
    assert study.arms[0].cost["parts"]["denoiser"]["type"] == "flat"
    assert study.arms[0].recipe.plugins == ((desk / "lamp.py").resolve(),)


WRONG = {
    "unknown key": ({"seedz": "[0]"}, r"study.yaml:5: seedz: unknown key; got 'seedz'; did you mean \"seeds\"\?"),
    "unknown key of evaluate": ({"evaluate": "{clip: 8}"}, r'study.yaml:5: evaluate.clip: unknown key.*"clips"'),
    "no arms": ({"arms": "{}"}, r"study.yaml:3: arms: .*at least 1"),
    "arms as a list": ({"arms": "[a, b]"}, r"study.yaml:3: arms: must be a valid dictionary"),
    "a seed of letters": ({"seeds": "[zero]"}, r"study.yaml:4: seeds.0: must be a valid integer.*'zero'"),
    "a seed twice": ({"seeds": "[1, 1]"}, r"study.yaml:4: seeds: names a seed twice"),
    "no seeds": ({"seeds": "[]"}, r"study.yaml:4: seeds: .*at least 1"),
    "match": ({"match": "hours"}, r"study.yaml:5: match: .*'hours'"),
    "no such recipe": ({"recipe": "nanno"}, r"study.yaml:2: recipe: .*'nanno'"),
    "a part that is not there": ({"arms": "{a: {denoiser: dot}}"}, r'study.yaml:3: denoiser: .*"dit"'),
    "a setting that is not there": ({"arms": "{a: {denoiser.widht: 3}}"}, r'study.yaml:3: denoiser.widht: .*"width"'),
    "a role that is not there": (
        {"arms": "{a: {denoser.width: 3}}"},
        r'study.yaml:3: denoser: unknown key.*"denoiser"',
    ),
    "one name for two arms": ({"arms": "{a b: {}, a-b: {}}"}, r"two arms have one name: a b and a-b"),
    "a name of dots": ({"arms": "{..: {}}"}, r"arms: an arm's name needs a letter or a digit; got '\.\.'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_clear_line(case: str, desk: Path, tmp_path: Path):
    changes, said = WRONG[case]
    path = written(desk, tmp_path, **changes)
    with pytest.raises(InputError, match=said) as raised:
        read_study(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"split": "tset"}, "split: the data has no such split; got 'tset'; did you mean \"test\"?"),
        ({"clips": 25}, "clips: the test split has 24; got 25"),
    ],
)
def test_a_protocol_that_the_data_cannot_serve(asked: dict, said: str, study: Study):
    with pytest.raises(InputError) as raised:
        check_protocol(replace(study, protocol=replace(study.protocol, **asked)))
    assert said in str(raised.value)


@pytest.mark.parametrize("word", ["denoiser", "denoser=dit", "denoiser="])
def test_a_wrong_swap_is_one_clear_line(word: str, desk: Path):
    with pytest.raises(InputError, match=f"--swap: is ROLE=A,B; got '{word}'"):
        chosen(desk / "nano.yaml", swaps=[word])


def test_a_wrong_word_in_a_swap_is_named(desk: Path):
    with pytest.raises(InputError, match=r"command line: denoiser: .*dti"):
        chosen(desk / "nano.yaml", swaps=["denoiser=dit,dti"])


def test_arms_with_different_data_are_refused(desk: Path, tmp_path: Path):
    path = written(desk, tmp_path, arms="{a: {}, b: {data.objects: [2, 2]}}", match="steps")
    with pytest.raises(InputError, match="a and b have different data"):
        chosen(path)


def test_the_verb_exits_with_2(verb, desk: Path, tmp_path: Path):
    code, out, err = verb("compare", written(desk, tmp_path, seedz="[0]"))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("mutoscope: ")
    code, _, err = verb("compare", "no-such-study")
    assert code == 2
    assert "no file and no shipped name is called this" in err
