"""Files of studies: arms and grids, sizes and budgets, and every shipped one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutoscope.benchmarks.matching import Budget, Match, budgeted, costed, sized
from mutoscope.benchmarks.study import EACH, marks, read_study, resolved_arms
from mutoscope.benchmarks.study_file import arms_of, checked
from mutoscope.core.errors import InputError
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import Recipe, load_recipe
from mutoscope.registry.runs import train_recipe
from mutoscope.registry.shipped import STUDIES, names

SHIPPED = ("quickstart", "families", "denoisers", "objectives", "samplers", "patch-size", "autoencoders", "scaling",
           "guidance")  # fmt: skip


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


def study_file(desk: Path, folder: Path, text: str) -> Path:
    (folder / "nano.yaml").write_text((desk / "nano.yaml").read_text())
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def arms(path: Path) -> dict[str, Recipe]:
    file = load_recipe(str(path), kind="study")
    said = checked(file)
    base = str(path.parent / said.recipe) if said.recipe else None
    return {name: arm.recipe for name, arm in resolved_arms(base, arms_of(file, said), file=file).items()}


# Shipped ones


def test_all_the_studies_that_are_asked_for_ship() -> None:
    assert set(SHIPPED) <= set(names(STUDIES))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_arm_of_a_shipped_study_assembles(name: str, catalog: Catalog) -> None:
    file = load_recipe(name, kind="study")
    said = checked(file)
    told = resolved_arms(said.recipe, arms_of(file, said), file=file)
    assert len(told) >= 2
    data = {assemble(arm.recipe, catalog, device="meta").dataset.fingerprint() for arm in told.values()}
    assert len(data) == 1
    for one in said.hypotheses:
        assert one.better in (*told, EACH)
    assert set(said.baselines) <= set(told)


def test_samplers_and_guidance_train_once(catalog: Catalog) -> None:
    """What is only sampled otherwise has the same phases."""
    from mutoscope.registry.runs import with_addresses

    for name in ("samplers", "guidance"):
        file = load_recipe(name, kind="study")
        said = checked(file)
        found = set()
        for arm in resolved_arms(said.recipe, arms_of(file, said), file=file).values():
            plan = with_addresses(assemble(arm.recipe, catalog, device="meta"), catalog, "cpu").plan
            found.add(tuple(phase.address for phase in plan.phases))
        assert len(found) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_studies_match_their_budgets(name: str) -> None:
    study = read_study(name)
    for arm in study.arms:
        if arm.aim is not None and arm.aim.kind == "flops" and arm.aim.over == "phase":
            assert arm.aim.amount is not None
            assert 0.97 <= arm.phase["flops"] / arm.aim.amount <= 1


@pytest.mark.slow
def test_families_train_a_few_steps_each(tmp_path: Path, catalog: Catalog) -> None:
    file = load_recipe("families", kind="study")
    said = checked(file)
    for name, arm in resolved_arms(said.recipe, arms_of(file, said), file=file).items():
        recipe = arm.recipe.replace("data.clips", 64)
        for i, _ in enumerate(recipe.get("training.phases") or ()):
            recipe = recipe.replace(("training", "phases", i, "steps"), 2).replace(
                ("training", "phases", i, "batch"), 8
            )
        if not recipe.get("training.phases"):
            recipe = recipe.replace("training.steps", 2).replace("training.batch", 8)
        _, _, position = train_recipe(recipe, catalog, tmp_path / name, "cpu")
        assert position.phase >= 1, name


# Arms and grids


def test_a_grid_is_every_combination_and_names_say_which(desk: Path, tmp_path: Path) -> None:
    path = study_file(
        desk, tmp_path,
        """
recipe: nano.yaml
arms: {plain: {}, wide: {denoiser.width: 32}}
axes:
  denoiser.depth: [1, 3]
  size: {small: {patchifier.size: [1, 1, 1]}, large: {patchifier.size: [1, 2, 2], training.batch: 4}}
common: {training.lr: 5.0e-4}
seeds: [0]
""",
    )  # fmt: skip
    told = arms(path)
    assert list(told) == [f"{a} depth {d} {s}" for a in ("plain", "wide") for d in (1, 3) for s in ("small", "large")]
    last = told["wide depth 3 large"]
    assert [last.get(k) for k in ("denoiser.width", "denoiser.depth", "training.batch", "training.lr")] == [
        32,
        3,
        4,
        5e-4,
    ]
    assert last.get("patchifier.size") == [1, 2, 2]
    assert told["plain depth 1 small"].get("training.batch") == 8


def test_arms_of_other_recipes_and_metrics_for_all(desk: Path, tmp_path: Path) -> None:
    path = study_file(
        desk, tmp_path,
        "arms: {a: {recipe: nano.yaml}, b: {recipe: lineage/08-videogpt, data: {type: shapes, frames: 4}}}\n"
        "metrics: [validity]\nseeds: [0]\n",
    )  # fmt: skip
    told = arms(path)
    assert told["a"].get("denoiser.type") == "dit"
    assert told["b"].get("denoiser.type") == "videogpt"
    assert told["a"].get("metrics") == told["b"].get("metrics") == ["validity"]


def test_named_options_of_a_key_and_parts_in_a_word(desk: Path, tmp_path: Path) -> None:
    path = study_file(
        desk, tmp_path,
        "recipe: nano.yaml\naxes: {sampler: [euler, heun], sampler.guidance: {none: 1.0, some: 2.0}}\nseeds: [0]\n",
    )  # fmt: skip
    told = arms(path)
    assert list(told) == ["euler none", "euler some", "heun none", "heun some"]
    assert told["heun some"].get("sampler") == {"type": "heun", "guidance": 2.0}


WRONG = {
    "an axis of nothing": ("axes: {denoiser.depth: []}", r"study.yaml:3: axes.denoiser.depth: has no options"),
    "an axis that is no key": ("axes: {depht: [1, 2]}", r"study.yaml:3: axes.depht: is no key of a recipe"),
    "an option twice": ("axes: {denoiser.depth: [1, 1]}", r"study.yaml:3: axes.denoiser.depth: names an option twice"),
    "two budgets": ("arms: {a: {}}\nbudget: {flops: 1, steps: 2}", r"study.yaml:4: budget: must give exactly one of"),
    "a budget below zero": ("arms: {a: {}}\nbudget: {flops: -1}", r"study.yaml:4: budget.flops: .*greater than 0.*-1"),
    "a budget of hours": ("arms: {a: {}}\nbudget: {hours: 1}", r"study.yaml:4: budget.hours: unknown key"),
    "a budget and steps": ("arms: {a: {}}\nmatch: steps\nbudget: {steps: 2}", r"study.yaml:5: budget: stands beside"),
    "two targets": ("arms: {a: {}}\nmatch: {parameters: 1, flops_per_step: 1}", r"study.yaml:4: match: must give exactly"),
    "a target of letters": ("arms: {a: {}}\nmatch: {parameters: many}", r"study.yaml:4: match.parameters: "),
    "a misspelt target": ("arms: {a: {}}\nmatch: {parametres: first}", r'match.parametres: unknown key.*"parameters"'),
    "a baseline that is no arm": ("arms: {a: {}, b: {}}\nbaselines: [c]", r"study.yaml:4: baselines.0: is no arm"),
    "a hypothesis of nobody": (
        "arms: {a: {}, b: {}}\nhypotheses: [{metric: caption.all, better: a, than: d}]",
        r"study.yaml:4: hypotheses.0.than: is neither an arm nor a floor; got 'd'",
    ),
    "a hypothesis half said": ("arms: {a: {}}\nhypotheses: [{better: a, than: b}]", r"hypotheses.0.metric: is missing"),
    "shares above one": ("arms: {a: {}}\nevaluate: {shares: [1.5]}", r"study.yaml:4: evaluate.shares.0: .*less than 1"),
    "a common recipe": ("arms: {a: {}}\ncommon: {recipe: x}", r"study.yaml:4: common.recipe: is an arm's own affair"),
    "no arms": ("title: A", r"study.yaml: ?.*arms, axes, or both|arms: is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_with_its_place(case: str, desk: Path, tmp_path: Path) -> None:
    text, said = WRONG[case]
    path = study_file(desk, tmp_path, f"recipe: nano.yaml\nseeds: [0]\n{text}\n")
    with pytest.raises(InputError, match=said) as raised:
        read_study(str(path))
    assert "\n" not in str(raised.value)


# Sizes and budgets


@pytest.fixture(scope="module")
def nano(desk: Path) -> Recipe:
    return load_recipe(str(desk / "nano.yaml"))


@pytest.mark.parametrize(("kind", "amount", "each"), [("steps", 9, 1), ("samples", 80, 8), ("tokens", 400, 8 * 12)])
def test_budgets_are_whole_steps_and_never_more(
    nano: Recipe, catalog: Catalog, kind: str, amount: int, each: int
) -> None:
    arm = costed("a", nano, catalog)
    assert arm.cost["batch"] * arm.cost["clip_tokens"] == 8 * 12
    (told,), _ = budgeted([arm], Budget(kind, amount))
    steps = told.phase["steps"]
    assert steps == amount // each == told.recipe.get("training.phases.1.steps")


def test_a_budget_over_all_phases_pays_the_autoencoder_first(nano: Recipe, catalog: Catalog) -> None:
    arm = costed("a", nano, catalog)
    before, each = arm.cost["phases"][0]["flops"], arm.phase["flops_per_step"]
    amount = before + 5.5 * each
    (told,), _ = budgeted([arm], Budget("flops", amount, "all"))
    assert told.phase["steps"] == 5
    with pytest.raises(InputError, match="arm a: its earlier phases cost"):
        budgeted([arm], Budget("flops", 0.5 * before, "all"))
    with pytest.raises(InputError, match="arm a: one step costs more than the whole budget"):
        budgeted([arm], Budget("flops", 0.5 * each))


@pytest.mark.parametrize("kind", ["parameters", "flops_per_step"])
def test_networks_are_sized_to_a_target(nano: Recipe, catalog: Catalog, kind: str) -> None:
    """Counted again from the recipe that comes out, not taken from the search."""
    one = costed("one", nano, catalog)
    other = costed("other", nano.replace("denoiser", {"type": "dit", "width": 40, "depth": 1, "heads": 2}), catalog)
    told, notes = sized([one, other], Match(kind, None, within=0.1), catalog)
    sizes = [
        arm.cost["parts"]["denoiser"]["parameters"] if kind == "parameters" else arm.phase["flops_per_step"]
        for arm in (describe_again(a.recipe, catalog) for a in told)
    ]
    assert sizes[0] == (
        one.cost["parts"]["denoiser"]["parameters"] if kind == "parameters" else one.phase["flops_per_step"]
    )
    assert abs(sizes[1] / sizes[0] - 1) <= 0.1
    assert len(notes) == 2
    assert "of the target" in notes[1]
    with pytest.raises(InputError, match="comes no nearer to"):
        sized([one, other], Match(kind, 3.0 if kind == "parameters" else 1.0), catalog)


def describe_again(recipe: Recipe, catalog: Catalog):
    from mutoscope.benchmarks.matching import Arm

    return Arm("again", recipe, describe(recipe, catalog))


def test_marks_lie_on_few_checkpoints() -> None:
    assert marks(800, [0.25, 0.5, 0.75]) == [200, 400, 600]
    assert marks(12, [0.25, 0.5]) == [3, 6]
    assert marks(1637, [0.5]) == [820]
    assert marks(2, [0.1, 0.9]) == [1]
