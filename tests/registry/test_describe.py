from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest

from mutoscope.core.errors import InputError, WorkError
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import Recipe

HERE = Path(__file__).parent
TOKENS, WIDTH = 3 * 4 * 4, 4
"""Tokens of a clip of 5 frames of 8 x 8 after `squeeze`, and their width."""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load([HERE / "tiny_parts.py", HERE / "large_parts.py"], strict=True, entries=[])


def recipe_of(**changes) -> Recipe:
    data = {
        "data": "clips",
        "autoencoder": "squeeze",
        "patchifier": "cubes",
        "conditioner": "words",
        "denoiser": {"type": "mlp", "width": 8},
        "objective": "straight",
        "sampler": {"type": "steps", "steps": 4},
        "training": {"steps": 2, "batch": 4},
    }
    return Recipe.of({key: value for key, value in {**data, **changes}.items() if value is not None})


def test_the_answer_has_the_stable_keys(catalog):
    told = describe(recipe_of(), catalog)
    stable = {"parts", "stages", "tokens", "training_flops_per_step", "sampling_flops", "published", "counted"}
    assert stable <= set(told)
    assert json.loads(json.dumps(told)) == told
    assert list(told["parts"]) == ["autoencoder", "patchifier", "conditioner", "objective", "denoiser", "sampler"]
    assert all(set(part) == {"type", "parameters", "trained", "flops"} for part in told["parts"].values())
    assert told["stages"] == []
    assert told["tokens"] == TOKENS
    assert told["published"] is None
    assert told["counted"] is None


def test_a_level_denoiser_in_closed_form(catalog):
    told = describe(recipe_of(), catalog)
    assert told["parts"]["denoiser"]["parameters"] == (WIDTH * 8 + 8) + (6 * 8 + 8) + (8 * WIDTH + WIDTH)
    forward = 2 * (TOKENS * WIDTH * 8 + 2 * 6 * 8 + TOKENS * 8 * WIDTH)
    assert told["parts"]["denoiser"]["flops"] == forward
    # Backward: as much for weights, and again for inputs, which the first layer of the noisy tokens does not need.
    learner = 3 * forward - 2 * TOKENS * WIDTH * 8
    words = 3 * 2 * (2 * 6 * 6) * (4 + 4)  # prompts, and the empty prompt for each
    assert told["training_flops_per_step"] == 4 * learner + words
    assert told["phases"][0] == {
        "name": "0-denoiser",
        "steps": 2,
        "flops_per_step": 4 * learner + words,
        "flops": 2 * (4 * learner + words),
        "exact": True,
    }


def test_sampling_counts_guidance_and_decoding(catalog):
    decoding = 2 * (TOKENS * 4 * 3 * 4)
    plain = describe(recipe_of(), catalog)
    guided = describe(recipe_of(sampler={"type": "steps", "steps": 4, "guidance": 2.0}), catalog)
    forward = plain["parts"]["denoiser"]["flops"]
    assert plain["sampling_flops"] == 4 * forward + decoding
    assert guided["sampling_flops"] == 8 * forward + decoding


def test_token_denoisers_with_a_cache_spend_one_forward_pass(catalog):
    told = describe(recipe_of(autoencoder="codes", denoiser="ids", objective="next_id", sampler="raster"), catalog)
    forward = TOKENS * 2 * (8 * 4 * 8 + 8 * 4 * 8 + 8 * 16)  # the LSTM's input and state, and the logits
    assert told["parts"]["denoiser"]["flops"] == forward
    assert told["sampling_flops"] == forward + 2 * (TOKENS * 3 * 3 * 4)
    assert told["training_flops_per_step"] > 2 * 4 * forward


def test_frame_denoisers_are_counted_over_all_frames(catalog):
    told = describe(recipe_of(denoiser="cell", objective="next_frame", sampler="rollout"), catalog)
    forward = TOKENS * 2 * (4 * 3 * 4 + 4 * 3 * 4 + 4 * WIDTH)  # the GRU's input and state, and the output
    assert told["parts"]["denoiser"]["flops"] == forward
    assert told["sampling_flops"] == forward + 2 * (TOKENS * 4 * 3 * 4)


def test_nested_parts_have_entries_and_turns_are_weighed(catalog):
    told = describe(recipe_of(conditioner=None, denoiser="generator", objective="game", sampler="once"), catalog)
    parts = told["parts"]
    spatial, temporal = (parts[f"objective.discriminators.{name}"] for name in ("spatial", "temporal"))
    assert (spatial["type"], spatial["parameters"], spatial["trained"]) == ("patches", 4 * 4 * 4 + 4 + 5, 73)
    places = 3 * 3 * 3
    assert spatial["flops"] == 2 * (places * 4 * 4 * 4 + 4)
    assert parts["objective"]["parameters"] == spatial["parameters"] + temporal["parameters"]
    assert parts["objective"]["flops"] == 0
    always = describe(recipe_of(conditioner=None, denoiser="generator", objective="game", sampler="once"), catalog)
    assert always == told
    # The temporal judge plays every other step: both judges' first layers see data, so backward is once and a bit.
    generator = 2 * 5 * WIDTH * 4
    judge = {part["flops"] * 4 for part in (spatial, temporal)}
    assert told["training_flops_per_step"] < 2 * generator * 3 + 8 * sum(judge)
    assert told["training_flops_per_step"] > 2 * sum(judge)


def test_trained_and_frozen(catalog):
    phases = [{"learn": "autoencoder", "objective": "rebuild", "steps": 1}, {"learn": "denoiser", "steps": 1}]
    both = describe(recipe_of(training={"phases": phases}), catalog)["parts"]
    assert both["autoencoder"]["trained"] == both["autoencoder"]["parameters"] == 199
    assert both["training.phases.0.objective"]["parameters"] == 0
    one = describe(recipe_of(conditioner={"type": "words", "frozen": True}), catalog)
    assert one["parts"]["autoencoder"]["trained"] == 0
    assert one["parts"]["conditioner"]["trained"] == 0
    assert one["parts"]["conditioner"]["parameters"] == 234
    assert one["training_flops_per_step"] < describe(recipe_of(), catalog)["training_flops_per_step"]


def test_published_figures_stand_beside_counted_ones(catalog):
    published = {"parts": ["denoiser", "conditioner"], "parameters": 366, "flops": "3 MAC", "source": "Table 1"}
    told = describe(recipe_of(published=published), catalog)
    parts = told["parts"]
    assert told["published"] == published
    assert told["counted"] == {
        "parts": ["conditioner", "denoiser"],
        "parameters": 366,
        "flops": parts["denoiser"]["flops"] + parts["conditioner"]["flops"],
    }


def test_a_part_within_a_counted_one_is_not_counted_twice(catalog):
    published = {"parts": ["objective", "objective.discriminators.spatial"]}
    told = describe(recipe_of(denoiser="generator", objective="game", sampler="once", published=published), catalog)
    assert told["counted"]["parameters"] == told["parts"]["objective"]["parameters"]


def test_memory(catalog):
    memory = describe(recipe_of(), catalog)["memory"]
    weights, learned = 199 + 234 + 132, 234 + 132
    assert memory["parameters"] == 4 * weights
    assert (memory["gradients"], memory["optimizer"], memory["average"]) == (4 * learned, 8 * learned, 4 * learned)
    assert memory["activations"] > 4 * 4 * TOKENS * 8
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")
    assert describe(recipe_of(training={"steps": 2, "ema": 0}), catalog)["memory"]["average"] == 0


def test_accumulation_costs_the_same_and_needs_less(catalog):
    whole, parts = (describe(recipe_of(training={"steps": 1, "batch": 4, "accumulate": n}), catalog) for n in (1, 2))
    assert whole["training_flops_per_step"] == parts["training_flops_per_step"]
    assert whole["memory"]["activations"] > parts["memory"]["activations"]


def test_a_tower_alone(catalog):
    phases = [{"learn": "tower", "objective": "classify", "steps": 1}]
    told = describe(Recipe.of({"data": "clips", "tower": "eye", "training": {"phases": phases, "batch": 2}}), catalog)
    assert told["tokens"] == 0
    assert told["sampling_flops"] is None
    assert told["parts"]["tower"]["flops"] == 2 * (5 * 8 * 8 * 3 * 4 + 4 * 3)
    assert told["training_flops_per_step"] > 2 * 2 * told["parts"]["tower"]["flops"] - 1000


def test_a_cascade(catalog):
    def stage(name, frames, size):
        parts = {k: v for k, v in recipe_of().data.items() if k not in ("data", "name", "training")}
        return {"name": name, "view": {"frames": frames, "size": [size, size]}, **parts}

    data = {"data": "clips", "stages": [stage("base", 3, 4), stage("fine", 5, 8)], "training": {"steps": 1}}
    told = describe(Recipe.of(data), catalog)
    assert [(s["name"], s["frames"], s["size"], s["tokens"]) for s in told["stages"]] == [
        ("base", 3, [4, 4], 8),
        ("fine", 5, [8, 8], 48),
    ]
    assert told["tokens"] == 56
    assert told["parts"]["fine.denoiser"]["flops"] > told["parts"]["base.denoiser"]["flops"]
    assert told["sampling_flops"] == sum(s["sampling_flops"] for s in told["stages"])
    assert [phase["name"] for phase in told["phases"]] == ["base.0-denoiser", "fine.1-denoiser"]


def test_a_loss_that_cannot_be_run_on_meta_is_estimated(catalog):
    told = describe(recipe_of(objective="peeking", conditioner=None), catalog)
    assert told["phases"][0]["exact"] is False
    assert told["training_flops_per_step"] == 3 * 4 * told["parts"]["denoiser"]["flops"]


def test_no_flops_where_there_are_matrices_is_an_error(catalog):
    with pytest.raises(WorkError, match="denoiser: idle computes"):
        describe(recipe_of(denoiser="idle"), catalog)


def test_mismatches_are_refused(catalog):
    with pytest.raises(InputError, match="would fit: denoiser"):
        describe(recipe_of(denoiser="ids"), catalog)


def test_175_billion_parameters_without_memory(catalog):
    data = {"type": "clips", "frames": 2, "size": [64, 64]}
    recipe = recipe_of(
        data=data,
        autoencoder={"type": "palette", "codebook": 50257},
        denoiser={"type": "decoder", "width": 12288, "depth": 96, "heads": 96},
        objective="next_id",
        sampler="raster",
        conditioner=None,
        training=None,
    )
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    told = describe(recipe, catalog)
    assert time.monotonic() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000_000  # KiB
    d, n, depth = 12288, 2 * 64 * 64, 96
    assert told["parts"]["denoiser"]["parameters"] == depth * (12 * d * d + 13 * d) + 50257 * d
    assert told["parts"]["denoiser"]["parameters"] > 174e9
    matrices = 2 * n * (depth * 12 * d * d + 50257 * d)
    assert told["parts"]["denoiser"]["flops"] == matrices + depth * 4 * n * n * d
    assert told["memory"]["parameters"] == 4 * told["parts"]["denoiser"]["parameters"]
