from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mutoscope.core.errors import DataError, InputError
from mutoscope.core.generation import Request, generate
from mutoscope.core.model import Cascade, Model
from mutoscope.core.training.run import train
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe, load_recipe

PARTS = Path(__file__).parent / "tiny_parts.py"

LEVEL = """\
data: {type: clips, frames: 5, size: [8, 8]}
autoencoder: squeeze
patchifier: cubes
conditioner: words
denoiser: {type: mlp, width: 8}
objective: straight
sampler: {type: steps, steps: 3}
training: {steps: 3, batch: 4}
metrics: [brightness]
"""
FAMILIES = {
    "level": {},
    "token": {"autoencoder": "codes", "denoiser": "ids", "objective": "next_id", "sampler": "raster"},
    "one step": {"denoiser": "generator", "objective": "game", "sampler": "once"},
    "frame": {"denoiser": "cell", "objective": "next_frame", "sampler": "rollout"},
    "pixels": {"autoencoder": "plain", "patchifier": {"type": "cubes", "size": 2}},
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load([PARTS], strict=True, entries=[])


@pytest.fixture
def written(tmp_path):
    """The level recipe as a file, with words replaced."""

    def write(*changes: tuple[str, str]) -> Recipe:
        text = LEVEL
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return load_recipe(path)

    return write


def recipe_of(**changes) -> Recipe:
    data = {
        "data": "clips",
        "autoencoder": "squeeze",
        "patchifier": "cubes",
        "conditioner": "words",
        "denoiser": "mlp",
        "objective": "straight",
        "sampler": "steps",
        "training": {"steps": 2, "batch": 4},
    }
    return Recipe.of({key: value for key, value in {**data, **changes}.items() if value is not None})


def refused(recipe: Recipe, catalog: Catalog) -> list[str]:
    """The lines with which a recipe is refused, without the file's name."""
    with pytest.raises(InputError) as error:
        assemble(recipe, catalog)
    return [line.rpartition("tiny.yaml:")[2] for line in str(error.value).splitlines()]


# What fits


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_assembled(family, catalog):
    made = assemble(recipe_of(**FAMILIES[family]), catalog)
    assert isinstance(made.model, Model)
    assert not made.model.lacks()
    assert all(p.device.type == "cpu" and torch.isfinite(p).all() for p in made.model.parameters())
    assert made.plan.phases[0].objective is made.model.objective
    assert made.plan.phases[0].name == "0-denoiser"
    assert made.plan.phases[0].descent.steps == 2


def test_metrics_dataset_and_views(written, catalog):
    made = assemble(written(("[brightness]", "[{type: brightness, scale: 2.0}]")), catalog)
    assert [metric.name for metric in made.metrics] == ["brightness"]
    assert made.metrics[0].scale == 2.0
    assert made.dataset.frames == 5
    assert made.plan.views == {"": (5, (8, 8))}


def test_training_and_sampling_work(catalog, tmp_path):
    made = assemble(recipe_of(), catalog)
    train(made.model, made.plan, tmp_path)
    answer = generate(made.model, Request(prompts=("grey", "grey"), frames=4, size=(7, 8)))
    assert answer.video.shape == (2, 3, 4, 7, 8)


def test_adversarial_turns_train(catalog, tmp_path):
    turns = {"spatial": {"lr": 2e-4}}
    training = {"batch": 4, "phases": [{"learn": "denoiser", "steps": 2, "turns": turns}]}
    made = assemble(recipe_of(**FAMILIES["one step"], training=training), catalog)
    phase = made.plan.phases[0]
    assert phase.turns["spatial"].lr == 2e-4
    assert phase.descent.lr == 1e-3
    before = copy.deepcopy(made.model.objective.state_dict())
    train(made.model, made.plan, tmp_path)
    after = made.model.objective.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))


def test_a_tower_alone(catalog):
    phases = [{"learn": "tower", "objective": "classify", "steps": 1}]
    made = assemble(Recipe.of({"data": "clips", "tower": "eye", "training": {"phases": phases}}), catalog)
    assert made.model.lacks() == ["autoencoder", "patchifier", "objective", "denoiser", "sampler"]
    assert made.plan.phases[0].objective.name == "classify"


def test_the_objective_may_stand_in_the_phase(catalog):
    phases = [
        {"learn": "autoencoder", "objective": "rebuild", "steps": 1},
        {"learn": "denoiser", "objective": "straight", "steps": 1},
    ]
    made = assemble(recipe_of(objective=None, training={"phases": phases}), catalog)
    assert made.model.objective.name == "straight"
    assert [phase.objective.name for phase in made.plan.phases] == ["rebuild", "straight"]
    assert made.plan.phases[1].objective is made.model.objective


def test_conditioners_merge(catalog):
    made = assemble(recipe_of(conditioner=["words", "labels"]), catalog)
    assert [address for address, _ in made.model.parts()][2:4] == ["conditioner.0", "conditioner.1"]
    assert len(made.model.conditioners) == 2


def test_without_a_conditioner_there_is_an_empty_fact(catalog):
    assert assemble(recipe_of(conditioner=None), catalog).model.denoiser.told is None


# Weights


def test_swapping_one_part_leaves_the_others_as_they_were(catalog):
    one = assemble(recipe_of(), catalog).model.state_dict()
    other = assemble(recipe_of(denoiser="reader"), catalog).model.state_dict()
    shared = [name for name in one if not name.startswith("denoiser.")]
    assert shared
    assert all(torch.equal(one[name], other[name]) for name in shared)


def test_weights_are_a_function_of_the_seed(catalog):
    def weights(seed):
        return assemble(recipe_of(), catalog, seed=seed).model.denoiser.into.weight

    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_phase_with_a_seed_of_its_own_is_shared_between_seeds(catalog):
    phases = [
        {"learn": "autoencoder", "objective": "rebuild", "steps": 1, "seed": 7},
        {"learn": "denoiser", "steps": 1},
    ]
    arms = [assemble(recipe_of(training={"phases": phases}), catalog, seed=seed).model for seed in (1, 2)]
    assert torch.equal(arms[0].autoencoder.down.weight, arms[1].autoencoder.down.weight)
    assert not torch.equal(arms[0].denoiser.into.weight, arms[1].denoiser.into.weight)


def test_frozen(catalog):
    made = assemble(recipe_of(conditioner={"type": "words", "frozen": True}), catalog)
    assert not any(p.requires_grad for p in made.model.conditioners[0].parameters())
    assert all(p.requires_grad for p in made.model.denoiser.parameters())


@pytest.mark.parametrize("prefix", ["", "autoencoder."])
def test_weights_from_a_file(prefix, catalog, tmp_path):
    source = assemble(recipe_of(), catalog, seed=9).model
    stored = {f"{prefix}{k}": t for k, t in source.autoencoder.state_dict().items()}
    if prefix:
        stored["denoiser.other"] = torch.zeros(1)
    save_file(stored, tmp_path / "model.safetensors")
    for place in (tmp_path, tmp_path / "model.safetensors"):
        made = assemble(recipe_of(autoencoder={"type": "squeeze", "weights": str(place)}), catalog)
        assert torch.equal(made.model.autoencoder.down.weight, source.autoencoder.down.weight)


def test_weights_that_do_not_suit(written, catalog, tmp_path):
    save_file({"down.weight": torch.zeros(2, 2)}, tmp_path / "short.safetensors")
    (tmp_path / "text.safetensors").write_text("none")
    assert "no such file" in refused(written(("squeeze", "{type: squeeze, weights: nowhere}")), catalog)[0]
    assert "has no weights" in refused(written(("squeeze", "{type: squeeze, weights: short.safetensors}")), catalog)[0]
    assert (
        "not a safetensors file"
        in refused(written(("squeeze", "{type: squeeze, weights: text.safetensors}")), catalog)[0]
    )
    other = assemble(recipe_of(autoencoder={"type": "squeeze", "channels": 6}), catalog).model.autoencoder.state_dict()
    save_file(other, tmp_path / "wide.safetensors")
    lines = refused(written(("squeeze", "{type: squeeze, weights: wide.safetensors}")), catalog)
    assert lines == ["2: autoencoder.weights: 'down.weight' is [6, 3, 3, 2, 2]; the part wants [4, 3, 3, 2, 2]"]


# What does not fit


def test_all_mismatches_at_once_with_lines_and_repairs(written, catalog):
    assert refused(written(("{type: mlp, width: 8}", "ids")), catalog) == [
        "5: denoiser: ids needs ids of a codebook; squeeze gives no codebook; would fit: denoiser: mlp, reader",
        "5: denoiser: ids needs a TokenProcess; straight gives a LevelProcess; would fit: denoiser: mlp, reader",
        "7: sampler: steps works with a LevelDenoiser; denoiser is ids, a TokenDenoiser; "
        "would fit: denoiser: mlp, reader",
    ]


def test_a_repair_may_be_the_part_that_gave_the_fact(written, catalog):
    lines = refused(written(("squeeze", "codes")), catalog)
    assert [line.partition(":")[0] for line in lines] == ["5", "6"]
    assert all(line.endswith("codes gives a codebook of 16; would fit: autoencoder: plain, squeeze") for line in lines)


def test_dependents_of_a_part_that_could_not_be_built_are_silent(written, catalog):
    assert refused(written(("squeeze", "{type: squeeze, width: 3}")), catalog) == [
        "2: autoencoder: squeeze: width 3 must be even"
    ]


def test_wrong_process(written, catalog):
    lines = refused(written(("straight", "next_frame")), catalog)
    assert "needs a LevelProcess; next_frame gives a FrameProcess" in lines[0]
    assert lines[0].endswith("would fit: denoiser: cell; objective: straight")
    assert lines[1].startswith("7: sampler: steps needs a LevelProcess")


@pytest.mark.parametrize("instead", ["", "conditioner: labels\n"])
def test_a_conditioner_would_fit(instead, written, catalog):
    lines = refused(written(("conditioner: words\n", instead), ("{type: mlp, width: 8}", "reader")), catalog)
    assert len(lines) == 1
    assert "a conditioner that gives a sequence of prompt features" in lines[0]
    assert lines[0].endswith("would fit: denoiser: mlp; conditioner: words")


def test_known_tokens_that_nobody_uses(written, catalog):
    lines = refused(written(("conditioner: words", "conditioner: [words, beginning]")), catalog)
    assert "mlp does not use the known tokens that beginning gives" in lines[0]


def test_clips_must_fit_exactly(written, catalog):
    assert refused(written(("frames: 5, size: [8, 8]", "frames: 6, size: [8, 9]")), catalog) == [
        "1: data: 6 frames of 8 x 9 do not fit squeeze and cubes exactly; "
        "the nearest that do: frames 5 or 7, columns 8 or 10"
    ]
    lines = refused(written(("patchifier: cubes", "patchifier: {type: cubes, size: 4}"), ("8, 8]", "16, 12]")), catalog)
    assert lines[0].endswith("the nearest that do: columns 8 or 16")


def test_a_constructor_says_what_is_wrong(written, catalog):
    assert refused(written(("width: 8", "width: 7")), catalog) == ["5: denoiser: mlp: heads 2 does not divide width 7"]


def test_data_that_cannot_be_used(written, catalog):
    with pytest.raises(DataError):
        assemble(written(("frames: 5", "broken: true")), catalog)


def test_nested_parts(written, catalog):
    game = "{type: game, discriminators: {spatial: {type: patches, widht: 3}, temporal: ptches}}"
    changes = [("straight", game), ("{type: mlp, width: 8}", "generator"), ("{type: steps, steps: 3}", "once")]
    lines = refused(written(*changes), catalog)
    assert lines[0].startswith("6: objective.discriminators.spatial.widht: unknown setting")
    assert 'did you mean "width"' in lines[0]
    assert lines[1].startswith("6: objective.discriminators.temporal: unknown discriminator 'ptches'")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("frames: 5", "frmes: 5", "1: data.frmes: unknown setting; got 'frmes'; did you mean \"frames\"?"),
        ("mlp", "mpl", "5: denoiser: unknown denoiser 'mpl'; did you mean \"mlp\"?"),
        ("steps: 3}", "steps: 0}", "7: sampler.steps: must be a whole number of at least 1; got 0"),
        ("batch: 4", "bacth: 4", '8: training.bacth: unknown setting; did you mean "batch"?'),
        ("batch: 4", "lr: -1", "8: training.lr: must be a number of more than 0; got -1"),
        ("batch: 4", "batch: 4, accumulate: 3", "8: training.batch: must divide into 3 micro-batches; got 4"),
        ("steps: 3, batch: 4", "batch: 4", "8: training.steps: is missing: phase 0-denoiser has neither"),
        ("batch: 4", "budget: {samples: 3}", "8: training.budget: stands beside steps"),
        ("steps: 3, batch: 4", "budget: {samples: 3, tokens: 3}", "8: training.budget: must be exactly one of"),
        (
            "steps: 3, batch: 4",
            "phases: [{learn: sampler}]",
            "8: training.phases.0.learn: must be the role that learns",
        ),
        ("steps: 3, batch: 4", "phases: [{learn: autoencoder}]", "8: training.phases.0.objective: is missing"),
        (
            "batch: 4",
            "phases: [{learn: denoiser, steps: 2}]",
            "8: training.steps: changes nothing, as every phase has its own; say training.phases.0.steps",
        ),
        ("batch: 4", "turns: {judge: {lr: 1}}", "8: training.turns.judge: unknown turn"),
        ("batch: 4", "turns: {judge: {batch: 1}}", "8: training.turns.judge.batch: unknown setting"),
        ("sampler: {type: steps, steps: 3}\n", "", "sampler: is missing: phase 0-denoiser needs it"),
        ("width: 8", "width: 8, frozen: true", "5: denoiser: mlp is frozen and learns nothing"),
        ("[brightness]", "[brightnes]", "9: metrics.0: unknown metric 'brightnes'"),
        (
            "objective: straight",
            "objective: rebuild",
            "6: objective: rebuild teaches the autoencoder, not the denoiser",
        ),
    ],
)
def test_mistakes_are_one_clear_line(old, new, said, written, catalog):
    assert any(said in line for line in refused(written((old, new)), catalog))


def test_an_autoencoder_without_weights_cannot_be_taught(catalog):
    phases = [{"learn": "autoencoder", "objective": "rebuild", "steps": 1}, {"learn": "denoiser", "steps": 1}]
    with pytest.raises(InputError, match="autoencoder: plain has no weights to learn; phase 0-autoencoder"):
        assemble(recipe_of(autoencoder="plain", training={"phases": phases}), catalog)


def test_repairs_are_bounded_in_time(written, catalog, monkeypatch):
    monkeypatch.setattr("mutoscope.registry.repairs.SECONDS", -1.0)
    lines = refused(written(("squeeze", "codes")), catalog)
    assert len(lines) == 2
    assert not any("would fit" in line for line in lines)


# Plans


def test_budgets_become_steps(catalog):
    def steps(**budget):
        return assemble(recipe_of(training={"batch": 4, "budget": budget}), catalog).plan.phases[0].descent.steps

    assert steps(samples=42) == 10
    assert steps(tokens=48 * 4 * 5) == 5  # 3 x 4 x 4 tokens a clip
    assert steps(flops=1e7) == 10 * steps(flops=1e6) + 8
    assert steps(samples=1) == 1


def test_phases_override_and_budgets_displace_steps(catalog):
    phases = [
        {"learn": "autoencoder", "objective": "rebuild", "lr": 0.5, "batch": 2},
        {"learn": "denoiser", "budget": {"samples": 16}},
    ]
    plan = assemble(recipe_of(training={"steps": 3, "batch": 4, "phases": phases}), catalog).plan
    first, second = (phase.descent for phase in plan.phases)
    assert (first.lr, first.batch, first.steps) == (0.5, 2, 3)
    assert (second.lr, second.batch, second.steps) == (1e-3, 4, 4)
    assert [phase.name for phase in plan.phases] == ["0-autoencoder", "1-denoiser"]


def test_on_meta_nothing_has_memory_and_steps_may_be_missing(catalog):
    made = assemble(recipe_of(training=None, metrics=["brightness"]), catalog, device="meta")
    assert all(p.is_meta for p in made.model.parameters())
    assert made.metrics == ()
    assert made.plan.phases[0].descent.steps is None


# Cascades


def stage(name: str, frames: int, size: int, **changes) -> dict:
    parts = {k: v for k, v in recipe_of(**changes).data.items() if k not in ("data", "name", "training")}
    return {"name": name, "view": {"frames": frames, "size": [size, size]}, **parts}


def test_a_cascade(catalog):
    data = {"data": "clips", "stages": [stage("base", 3, 4), stage("fine", 5, 8)], "training": {"steps": 1, "batch": 2}}
    made = assemble(Recipe.of(data), catalog)
    assert isinstance(made.model, Cascade)
    assert [name for name, _ in made.model.items()] == ["base", "fine"]
    assert made.plan.views == {"base": (3, (4, 4)), "fine": (5, (8, 8))}
    assert [(phase.name, phase.stage) for phase in made.plan.phases] == [
        ("base.0-denoiser", "base"),
        ("fine.1-denoiser", "fine"),
    ]
    assert made.model.items()[1][1].denoiser is not made.model.items()[0][1].denoiser
    assert "fine.denoiser" in made.made


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.b", "without dots"), ("base", "of its own"), ("keys", "torch keeps")],
)
def test_names_that_no_stage_can_have(catalog, name: str, said: str):
    data = {"data": "clips", "stages": [stage("base", 3, 4), stage(name, 5, 8)], "training": {"steps": 1, "batch": 2}}
    assert any("stages.1.name" in line and said in line for line in refused(Recipe.of(data), catalog))


def test_mistakes_in_a_cascade(catalog):
    data = {
        "data": "clips",
        "stages": [stage("base", 3, 4), stage("fine", 6, 8, denoiser="ids")],
        "training": {"steps": 1, "phases": [{"learn": "denoiser", "stage": "bose"}]},
        "sampler": "steps",
    }
    lines = refused(Recipe.of(data), catalog)
    assert any("stages.1.denoiser: ids needs ids of a codebook" in line for line in lines)
    assert any("would fit: stages.1.denoiser: mlp, reader" in line for line in lines)
    assert any("stages.1.view: 6 frames of 8 x 8 do not fit" in line for line in lines)
    assert any("stage: must be the name of a stage; got 'bose'; did you mean \"base\"" in line for line in lines)
    assert any("sampler: stands beside stages" in line for line in lines)
