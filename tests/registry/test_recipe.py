"""Recipes: extended, overridden, checked, and every mistake one line that names its place."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mutoscope.core.errors import InputError, nearest
from mutoscope.core.training.plan import Descent
from mutoscope.registry import recipe as recipes
from mutoscope.registry import shipped
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import KEYS, PARTS, Recipe, load_recipe
from mutoscope.registry.schema import check_fields, check_settings, part_named, settings_of

TEXT = """\
# A recipe of small parts.
name: small
denoiser: {type: wide, width: 32, depth: 2, heads: 2, low: 0.1, high: 0.9, window: [4, 4], mixing: joint}
objective:
  type: duel
  weight: 0.5
  judge: {type: patches, width: 8}
  second:
    type: patches
    slope: 0.1
sampler: {type: steps_, steps: 5, guidance: 3.0}
training:
  phases:
    - {learn: denoiser, steps: 10}
    - learn: denoiser
      steps: 20
      lr: 1e-4
  batch: 32
  lr: 1e-3
  seed: 0
  schedule: cosine
  precision: float32
metrics: [caption, {type: motion, clips: 3}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with `small.yaml`, and a house with shipped recipes beside it."""
    house = tmp_path / "house"
    for name in ("", "lineage", "studies", "paper"):
        (house / name).mkdir(exist_ok=True)
    (house / "quickstart.yaml").write_text(TEXT)
    (house / "lineage" / "25-dit.yaml").write_text("extends: quickstart\ndenoiser: {depth: 7}\n")
    (house / "studies" / "quickstart.yaml").write_text(
        "recipe: quickstart\narms: {a: {denoiser.depth: 3}}\nseeds: [0]\n"
    )
    monkeypatch.setattr(shipped, "folder", lambda: house)
    (tmp_path / "small.yaml").write_text(TEXT)
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(path: Any, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Loading


def test_a_recipe_is_plain_data_with_places(folder):
    recipe = load_recipe(folder / "small.yaml")
    assert recipe.name == "small"
    assert recipe.data["training"]["lr"] == 1e-3
    assert isinstance(recipe.data["training"]["phases"][1]["lr"], float)
    file = str(folder / "small.yaml")
    assert recipe.where("denoiser.width") == (file, 3)
    assert recipe.where(("objective", "second", "slope")) == (file, 10)
    assert recipe.where("training.phases.1.lr") == (file, 17)
    assert recipe.where("objective.second.width") == (file, 8), "what was not written stands where its part does"
    assert recipe.where("nothing.at.all") == (file, 2)
    assert recipe.get("metrics.1.clips") == 3
    assert recipe.get("metrics.7", "none") == "none"


def test_a_recipe_without_a_name_is_called_like_its_file(folder):
    assert load_recipe(write(folder, "my recipe.yaml", "denoiser: wide\n")).data == {
        "name": "my-recipe",
        "denoiser": "wide",
    }


def test_loading_takes_no_torch_and_no_time(folder):
    code = (
        "import sys, time\nstart = time.perf_counter()\n"
        "from mutoscope.core.errors import InputError\nfrom mutoscope.registry.recipe import load_recipe\n"
        "try:\n    load_recipe(sys.argv[1])\n"
        "except InputError as error:\n    print(error, time.perf_counter() - start)\n"
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    for text in ["denoiserr: wide\n", "a: 1\na: 1\n", "a: [\n", "x" * 10_000_000]:
        path = write(folder, "bad.yaml", text)
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout.split()[-1]) < 20


def test_a_recipe_reads_back_from_its_dump(folder):
    recipe = load_recipe("25-dit", ["sampler.guidance=1e-5", "training.lr=2e-4", "name=x.y-z_1"])
    again = load_recipe(write(folder, "again.yaml", recipe.dump()))
    assert again.data == recipe.data
    assert again.name == recipe.name == "x.y-z_1"
    assert "extends" not in again.data


# Names


@pytest.mark.parametrize(
    "name", ["quickstart", "25-dit", "lineage/25-dit", "recipes/lineage/25-dit.yaml", "recipes/quickstart.yaml"]
)
def test_shipped_recipes_are_found_by_name(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    assert load_recipe(name).data["denoiser"]["type"] == "wide"


def test_a_study_is_looked_up_among_studies(folder):
    study = load_recipe("quickstart", kind="study")
    assert study.data == {"recipe": "quickstart", "arms": {"a": {"denoiser.depth": 3}}, "seeds": [0]}
    assert study.where(("arms", "a", "denoiser.depth"))[1] == 2
    assert shipped.find_study("quickstart") != shipped.find_recipe("quickstart")
    assert shipped.names() == ["quickstart", "25-dit"]


@pytest.mark.parametrize(
    "name",
    ["../small", "../../etc/passwd", "..", ".", "", "/etc/passwd", "lineage/../quickstart", "quick\0start", "a" * 5000,
     "recipes/../small.yaml", "studies/quickstart", "nowhere.yaml", "x" * 5000 + ".yaml", "small\n.yaml", "~",
     "~nobody_is_called_this/x.yaml"],
)  # fmt: skip
def test_names_lead_nowhere_else(folder, monkeypatch, name):
    monkeypatch.chdir(folder / "house")
    refused(name)


def test_a_shipped_link_to_elsewhere_is_not_shipped(folder):
    (folder / "house" / "leak.yaml").symlink_to(folder / "small.yaml")
    assert "leak" not in shipped.names()
    refused("leak")


def test_a_misspelt_name_gets_the_nearest(folder):
    assert 'did you mean "quickstart"?' in refused("quikstart")


def test_a_folder_is_no_recipe(folder):
    (folder / "d.yaml").mkdir()
    assert "no such file" in refused(folder / "d.yaml")


def test_text_in_another_encoding_is_refused_with_its_line(folder):
    path = folder / "latin.yaml"
    path.write_bytes("denoiser: wide\n# größe\n".encode("latin-1"))
    assert f"{path}:2: is not a text in UTF-8" in refused(path)
    path.write_bytes("\ufeffdenoiser: wide\n".encode())
    assert load_recipe(path).data["denoiser"] == "wide"


# Extending


def test_a_recipe_extends_another(folder):
    (folder / "sub").mkdir()
    base = write(folder, "base.yaml", "extends: quickstart\nsampler: {guidance: 1}\nobjective: {judge: {width: 9}}\n")
    path = write(folder / "sub", "top.yaml", "extends: ../base.yaml\ndenoiser: {type: ids, x: 1}\nmetrics: [own]\n")
    recipe = load_recipe(path, ["training.batch=4"])
    assert recipe.name == "top"
    assert recipe.data["sampler"] == {"type": "steps_", "steps": 5, "guidance": 1}
    assert recipe.data["denoiser"] == {"type": "ids", "x": 1}
    assert recipe.data["objective"]["judge"] == {"type": "patches", "width": 9}
    assert recipe.data["metrics"] == ["own"]
    assert recipe.where("sampler.guidance") == (str(folder / "sub" / ".." / "base.yaml"), 2)
    assert recipe.where("denoiser.x") == (str(path), 2)
    assert recipe.where("training.lr") == (str(folder / "house" / "quickstart.yaml"), 19)
    assert recipe.where("training.batch") == ("command line", None)
    assert [source.resolve() for source in recipe.sources] == [path, base, folder / "house" / "quickstart.yaml"]


def test_null_takes_a_part_away(folder):
    path = write(folder, "less.yaml", "extends: small.yaml\nsampler: null\nmetrics:\n")
    assert not {"sampler", "metrics"} & set(load_recipe(path).data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: quikstart\n", ":1: extends: no such recipe; got 'quikstart'; did you mean \"quickstart\"?"),
        ("extends: ../../../etc/passwd\n", ":1: extends: no such recipe"),
        ("extends: /etc/passwd\n", ":1: extends: no such recipe"),
        ("extends: gone.yaml\n", ":1: extends: no such recipe"),
        ("extends: [small.yaml]\n", ":1: extends: must be the name or path of one recipe"),
        ("\nextends: bad.yaml\n", ":2: extends: these recipes extend each other in a circle"),
        ("extends: other.yaml\n", "other.yaml:1: extends: these recipes extend each other in a circle"),
    ],
)
def test_what_cannot_be_extended(folder, text, said):
    write(folder, "other.yaml", "extends: bad.yaml\n")
    assert said in refused(write(folder, "bad.yaml", text))


def test_a_chain_has_an_end(folder):
    for i in range(40):
        write(folder, f"r{i}.yaml", f"extends: r{i + 1}.yaml\n")
    assert "more than 20 recipes" in refused(folder / "r0.yaml")


def test_a_mistake_in_the_base_is_told_there(folder):
    write(folder, "base.yaml", "sampler: a\nsamplr: b\n")
    assert "base.yaml:2: samplr: unknown key" in refused(write(folder, "top.yaml", "extends: base.yaml\n"))


# Plugins


def test_plugin_files_are_relative_to_the_file_that_names_them(folder, monkeypatch):
    (folder / "sub").mkdir()
    for name in ("sub/own.py", "other.py", "mine.py"):
        write(folder, name, "")
    write(folder / "sub", "base.yaml", "plugins: [own.py, ../other.py]\n")
    recipe = load_recipe(write(folder, "top.yaml", "extends: sub/base.yaml\n"))
    assert recipe.plugins == (folder / "sub" / "own.py", folder / "other.py")
    monkeypatch.chdir(folder)
    assert load_recipe("small.yaml", ["plugins=[mine.py]"]).plugins == (folder / "mine.py",)


@pytest.mark.parametrize("name", ["gone.py", "sub", '"\\0"', "x" * 5000, "~nobody_is_called_this/x.py"])
def test_a_plugin_file_that_is_missing_is_told_with_its_line(folder, name):
    assert ":2: plugins.0: no such plugin file" in refused(write(folder, "top.yaml", f"plugins:\n- {name}\n"))


# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("denoiser.depth=4", "denoiser.depth", 4),
        ("denoiser.mixing=factorised", "denoiser.mixing", "factorised"),
        ("denoiser.window=[2, 3]", "denoiser.window", [2, 3]),
        ("denoiser=ids", "denoiser", "ids"),
        ("denoiser={type: ids, x: 1}", "denoiser", {"type": "ids", "x": 1}),
        ("training.phases.0.steps=10", "training.phases.0.steps", 10),
        (
            "training.phases.0.budget={flops: 1e12}",
            "training.phases.0",
            {"learn": "denoiser", "budget": {"flops": 1e12}},
        ),
        ("training.lr=1e-4", "training.lr", 1e-4),
        ("metrics.0.clips=3", "metrics.0", {"type": "caption", "clips": 3}),
        ("data.path=/a b/c=d", "data.path", "/a b/c=d"),
        ("denoiser.label=", "denoiser.label", None),
        ("objective.judge.slope=0.5", "objective.judge", {"type": "patches", "width": 8, "slope": 0.5}),
        ("published.flops=1", "published", {"flops": 1}),
    ],
)
def test_overrides(folder, override, path, value):
    recipe = load_recipe(folder / "small.yaml", [override])
    assert recipe.get(path) == value
    assert recipe.where(override.partition("=")[0]) == ("command line", None)
    assert load_recipe(folder / "small.yaml").get("denoiser.depth") == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("denoiser.depth", "an override is KEY=VALUE"),
        ("=4", "an override is KEY=VALUE"),
        ("denoiser..depth=4", "an override is KEY=VALUE"),
        (".=4", "an override is KEY=VALUE"),
        ("denoisr.depth=4", "command line: denoisr: unknown key; got 'denoisr'; did you mean \"denoiser\"?"),
        ("denoiser=[1, 2", "command line: denoiser: is not YAML"),
        ("denoiser=!!python/name:os.system x", "tags are not allowed"),
        ("denoiser=os.system", "command line: denoiser: a part is called by its name"),
        ("denoiser.type=../dit", "command line: denoiser.type: a part is called by its name"),
        ("training.phases.7.steps=1", "command line: training.phases: is a list"),
        ("training.lr.x=1", "command line: training.lr: is 0.001 and has no settings"),
        ("extends=quickstart", "command line: extends: cannot be overridden"),
        ("name=../x", "command line: name: must be one word"),
        ("training=3", "command line: training: must be a mapping"),
    ],
)
def test_overrides_that_cannot_be(folder, override, said):
    assert said in refused(folder / "small.yaml", override)


def test_swaps_and_repairs_give_new_recipes(folder):
    recipe = load_recipe(folder / "small.yaml")
    assert recipe.replace("denoiser", "ids").data["denoiser"] == "ids"
    assert recipe.replace("denoiser", "wide").data == recipe.data, "the same word keeps the settings"
    assert recipe.replace(("training", "phases", 1, "steps"), 7).get("training.phases.1.steps") == 7
    assert recipe.replace("name", "other").name == "other"
    assert recipe.replace("denoiser.depth", 9).where("denoiser.depth") == (str(folder / "small.yaml"), 3)
    assert "sampler" not in recipe.without("sampler", "objective.judge").data
    assert recipe.without("objective.judge").get("objective.judge") is None
    assert recipe.get("objective.judge") is not None
    assert Recipe.of(recipe.data).data == recipe.data
    assert Recipe.of({"denoiser": "wide"}).where("denoiser") is None
    with pytest.raises(InputError, match="only a recipe in a file"):
        Recipe.of({"extends": "small"})


def test_a_problem_names_its_place(folder):
    recipe = load_recipe(folder / "small.yaml")
    error = recipe.problem("denoiser.widht", "unknown setting", "widht", near=["width", "depth"])
    assert (
        str(error)
        == f"{folder / 'small.yaml'}:3: denoiser.widht: unknown setting; got 'widht'; did you mean \"width\"?"
    )
    assert str(recipe.problem("metrics", "too few", near=["a"])).endswith("metrics: too few")


# Structure


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", ":1: must be a mapping"),
        ("just words\n", ":1: must be a mapping"),
        (
            "denoiser: wide\nconditoner: x\n",
            ":2: conditoner: unknown key; got 'conditoner'; did you mean \"conditioner\"?",
        ),
        ("denoiser: 3\n", ":1: denoiser: must be the name of a part"),
        ("denoiser: [wide]\n", ":1: denoiser: must be the name of a part"),
        ("denoiser: {type: 3}\n", ":1: denoiser.type: must be the name of a part"),
        ("denoiser: {type: os.system}\n", ":1: denoiser.type: a part is called by its name"),
        ("denoiser: {type: ../../x}\n", ":1: denoiser.type: a part is called by its name"),
        ("conditioner:\n- text\n- 3\n", ":3: conditioner.1: must be the name of a part"),
        ("metrics: caption\n", ":1: metrics: must be a list"),
        ("metrics: [a/b]\n", ":1: metrics.0: a part is called by its name"),
        ("training: [1]\n", ":1: training: must be a mapping"),
        ("training: {phases: {learn: x}}\n", ":1: training.phases: must be a list"),
        ("training:\n  phases:\n  - denoiser\n", ":3: training.phases.0: must be a mapping"),
        ("training: {phases: [{objective: a.b}]}\n", ":1: training.phases.0.objective: a part is called by its name"),
        ("stages: {a: 1}\n", ":1: stages: must be a list"),
        ("stages:\n- name: low\n  denoisr: x\n", ":3: stages.0.denoisr: unknown key"),
        ("stages: [{name: ../x}]\n", ":1: stages.0.name: must be one word"),
        ("name: ../../x\n", ":1: name: must be one word"),
        ("name: .hidden\n", ":1: name: must be one word"),
        ("name: 3\n", ":1: name: must be one word"),
        ("plugins: own.py\n", ":1: plugins: must be a list"),
        ("plugins: [3]\n", ":1: plugins.0: must be the path"),
        ('"a\\nb": 1\n', ":1: a\\nb: unknown key"),
        ("<<: {denoiser: wide}\n", ":1: <<: unknown key"),
        ("target: os.system\n", ":1: target: unknown key"),
        ("_target_: os.system\n", ":1: _target_: unknown key"),
    ],
)
def test_what_no_recipe_says(folder, text, said):
    assert said in refused(write(folder, "bad.yaml", text))


# Any mistake at all


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load([Path(__file__).with_name("parts.py")], strict=True, entries=[])


def examine(recipe: Recipe, catalog: Catalog) -> None:
    """Raises the first mistake in the parts and the training of a recipe."""

    def part(role: str, path: tuple, value: Any) -> None:
        named, wrong = part_named(value)
        for problem in wrong:
            raise recipe.problem((*path, *problem.path), problem.problem, problem.got, problem.allowed)
        cls = catalog.find(role, named.type)
        if cls is None:
            raise recipe.problem(path, f"unknown {role}; {catalog.suggest(role, named.type)}", named.type)
        settings, wrong = check_settings(cls, named.settings)
        for problem in wrong:
            raise recipe.problem((*path, *problem.path), problem.problem, problem.got, problem.allowed)
        for setting in settings_of(cls):
            inner = settings[setting.name] if setting.nested else None
            for key, one in (inner if setting.many else {None: inner}).items() if inner else ():
                given = {"type": one.type, **one.settings}
                part(setting.nested, (*path, setting.name, *([key] if key else [])), given)

    for role in PARTS:
        if role in recipe.data and role in catalog.roles() and catalog.classes(role):
            part(role, (role,), recipe.data[role])
    training = recipe.data.get("training", {})
    for at, given in [
        (("training",), training),
        *((("training", "phases", i), p) for i, p in enumerate(training.get("phases") or [])),
    ]:
        own = {key: value for key, value in given.items() if key not in ("phases", "learn", "objective", "turns")}
        for problem in check_fields(Descent, own)[1]:
            raise recipe.problem((*at, *problem.path), problem.problem, problem.got, problem.allowed)


def test_the_recipe_of_these_tests_is_right(folder, catalog):
    examine(load_recipe(folder / "small.yaml"), catalog)


JUNK = ["\0", "\t", "{", "}", "[", "]", ":", "- ", "&a ", "*a", "!!python/object:os.system ", "|", ">", "'", '"', "%",
        "@", "`", "?", "#", ".nan", "-1", "1e400", "null", "true", "..", "../", "é", "\ud7ff", "\u2028", "\r", "\n",
        "  ", "=", ",", "<<", "0x", "9" * 200, "os.system", "~", "---\n", "...\n", "\x85", "𝔡"]  # fmt: skip


def mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.choice([0, 1, 1, 2, 5, 40]))
        lines = text.splitlines(keepends=True)
        text = chance.choice(
            [
                lambda text=text, at=at, end=end: text[:at] + text[end:],
                lambda text=text, at=at: text[:at] + chance.choice(JUNK) + text[at:],
                lambda text=text, at=at, end=end: text[:at] + chance.choice(JUNK) + text[end:],
                lambda text=text, at=at, end=end: text[:at] + text[at:end] * 2 + text[end:],
                lambda text=text, at=at, end=end: text[:at] + text[at:end][::-1] + text[end:],
                lambda lines=lines: "".join(chance.sample(lines, len(lines))),
                lambda lines=lines: "".join([*lines, chance.choice(lines or ["a\n"])]),
            ]
        )()
    return text


def test_any_mutation_is_valid_or_one_line(folder, catalog):
    chance = random.Random(0)
    valid = 0
    for trial in range(400):
        text = mutated(TEXT, chance)
        path = folder / "mutated.yaml"
        path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        start = time.perf_counter()
        try:
            examine(load_recipe(path), catalog)
            valid += 1
        except InputError as error:
            told = str(error)
            assert len(told.splitlines()) == 1, (trial, told)
            assert str(path) in told, (trial, told, text)
            assert len(told) < 600, (trial, told)
        assert time.perf_counter() - start < 20
    assert 10 < valid < 200


def typo(word: str, chance: random.Random) -> str:
    at = chance.randrange(len(word))
    letter = chance.choice("abcdefghijklmnopqrstuvwxyz")
    return chance.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + letter + word[at:],
            word[:at] + letter + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[: max(at - 1, 0)] + word[at] + word[max(at - 1, 0)] + word[at + 1 :] if at else word + letter,
        ]
    )


def test_a_typo_gets_the_name_that_was_meant(folder, catalog):
    chance = random.Random(1)
    wide = catalog.find("denoiser", "wide")
    settings = [setting.name for setting in settings_of(wide)]
    right = trials = 0
    for trial in range(600):
        if trial % 2:
            meant = chance.choice(KEYS)
            wrong = typo(meant, chance)
            if wrong in KEYS:
                continue
            told = refused(write(folder, "typo.yaml", f"{wrong}: x\n"))
        else:
            meant = chance.choice(settings)
            wrong = typo(meant, chance)
            if wrong in settings:
                continue
            (problem,) = check_settings(wide, {wrong: 1})[1]
            told = str(
                Recipe.of({"denoiser": "wide"}).problem(problem.path, problem.problem, problem.got, problem.allowed)
            )
        trials += 1
        right += f'did you mean "{meant}"?' in told
    assert right / trials >= 0.95, f"{right} of {trials}"


# Hostile


@pytest.mark.parametrize(
    "text",
    [
        "denoiser: !!python/object/apply:os.system ['touch {canary}']\n",
        "denoiser: !!python/object/new:os.system ['touch {canary}']\n",
        "!!python/object/apply:os.system ['touch {canary}']\n",
        "denoiser: {{type: os.system, args: ['touch {canary}']}}\n",
        "denoiser: {{_target_: os.system, command: touch {canary}}}\n",
        "denoiser: {{type: wide, label: '${{oc.env:HOME}}', weights: !!python/name:os.system ''}}\n",
        "name: $(touch {canary})\n",
        "name: ../../canary\n",
        "extends: '| touch {canary}'\n",
        "extends: https://example.org/x.yaml\n",
    ],
)
def test_a_recipe_cannot_do_anything(folder, catalog, text):
    canary = folder / "canary"
    before = sorted(folder.rglob("*"))
    path = write(folder, "hostile.yaml", text.format(canary=canary))
    with pytest.raises(InputError):
        examine(load_recipe(path), catalog)
    assert sorted(folder.rglob("*")) == sorted([*before, path])


def test_suggestions_never_come_from_nowhere():
    assert nearest("zzzzzz", recipes.KEYS) == ""
