"""Sora's recipe: one packed model of every duration, size and aspect, images among them, with no branch for any."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mutoscope.benchmarks.evaluation import Protocol, Truth
from mutoscope.benchmarks.scoring import score_run
from mutoscope.core.generation import Request, generate
from mutoscope.core.model import Model
from mutoscope.core.randomness import Draw
from mutoscope.core.training.progress import Silence
from mutoscope.core.values import Grid
from mutoscope.registry.assembly import Assembled, assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe, load_recipe
from mutoscope.registry.runs import Loaded, load, train_recipe

SMALLER = [
    "data.sizes=[[5,8,8],[3,8,16],[1,16,16]]",
    "data.clips=32",
    "data.held=40",
    "autoencoder={type: causal_kl, channels: 4, stride: [2, 4, 4], width: 8, depth: 1}",
    "patchifier.size=[1,1,1]",
    "conditioner.0={type: text, width: 16, depth: 1, heads: 2, length: 24}",
    "denoiser={type: dit, width: 16, depth: 1, heads: 2}",
    "writer={type: expander, width: 32, depth: 1, heads: 2, tries: 2}",
    "sampler.steps=2",
    "training.batch=8",
    "training.phases.0.steps=2",
    "training.phases.0.batch=8",
    "training.phases.1.steps=2",
    "training.phases.1.batch=8",
    "training.phases.2.steps=2",
]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(strict=True)


@pytest.fixture(scope="module")
def run(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("sora") / "run"
    train_recipe(load_recipe("lineage/00-sora", SMALLER), catalog, folder, "cpu")
    return load(folder, device="cpu", catalog=catalog)


def model_of(made: Assembled | Loaded) -> Model:
    assert isinstance(made.model, Model)
    return made.model


def test_it_joins_what_the_report_says(catalog: Catalog):
    """Compression in time and space, patches, packed native sizes with images, a transformer that predicts the clean
    patches and is told descriptive captions and known places; a writer for prompts."""
    made = assemble(load_recipe("lineage/00-sora"), catalog, "meta")
    model, [stage] = model_of(made), made.stages
    latent = next(iter(model.autoencoder.facts()))
    token = next(iter(model.patchifier.facts()))
    assert min(latent.stride) > 1
    assert token.packed
    assert model.objective.process.kind == "clean"  # type: ignore[union-attr]
    sizes = set(made.dataset.sizes("train", range(200)) or ())
    assert {frames for frames, _, _ in sizes} >= {1, 5, 9}
    assert len({rows / columns for _, rows, columns in sizes}) >= 3
    assert all("in all" in text for text in made.dataset.batch("train", range(4)).prompt or ())
    assert not model.lacks(("writer",))
    assert stage.whole is model


def test_the_trunk_of_the_paper_recipe_is_the_transformers(catalog: Catalog):
    """No size of Sora is published, so that none is asserted: without attention to the prompt the blocks are DiT-XL/2's."""
    sora = model_of(assemble(load_recipe("paper/00-sora"), catalog, "meta")).denoiser
    dit = model_of(assemble(load_recipe("paper/26-dit-xl-2"), catalog, "meta")).denoiser

    def blocks(part: torch.nn.Module) -> dict[str, Any]:
        return {n: p.shape for n, p in part.named_parameters() if n.startswith("blocks.") and ".cross." not in n}

    assert blocks(sora) == blocks(dit)
    assert load_recipe("paper/00-sora").data.get("published") is None


@pytest.mark.parametrize("shape", [(5, 8, 8), (7, 8, 8), (5, 16, 16), (3, 12, 4), (1, 8, 24), (1, 4, 4), (13, 4, 8)])
def test_sizes_that_it_was_not_trained_on(shape: tuple[int, int, int], run: Loaded):
    """Asked for as any other: the size is that of the canvas of noise."""
    frames, *size = shape
    answer = run.answer("a red circle moves left", frames=frames, size=tuple(size))
    assert tuple(answer.video.shape) == (1, 3, *shape)
    assert not answer.notes


def test_clips_of_several_sizes_are_sampled_together_as_alone(run: Loaded):
    """One packed canvas, each clip with noise and prompt of its own, and the same result to 1e-5."""
    model = model_of(run)
    grids = [Grid(3, 2, 2), Grid(2, 2, 4), Grid(1, 4, 4), Grid(4, 1, 3)]
    prompts = ("a red circle moves left", "a blue square moves up", "a green triangle stays", "")
    draw, batch = Draw(5, "sample", 0, (0, 1, 2, 3)), Request(prompts=prompts).batch()
    with torch.no_grad():
        canvas = model.patchifier.canvas(grids)
        assert not canvas.regular
        together = model.patchifier.unpatchify(
            model.sampler.sample(model.denoiser, canvas, model.embed(batch, draw), draw)
        ).clips()
        for i, grid in enumerate(grids):
            one, told = draw.of((i,)), Request(prompts=prompts[i : i + 1]).batch()
            tokens = model.sampler.sample(model.denoiser, model.patchifier.canvas([grid]), model.embed(told, one), one)
            alone = model.patchifier.unpatchify(tokens).clips()[0]
            torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-5)


def test_one_model_does_every_task(run: Loaded):
    """At sizes that it was not trained on, too."""
    model, video = model_of(run), torch.rand(1, 3, 7, 8, 12) * 2 - 1
    base, stays = Request(count=1), torch.ones(1, 7, 8, 12, dtype=torch.bool)
    stays[:, :, :4] = False
    requests = [
        base.animating(video[:, :, 0], 7),
        base.extending(video, after=4),
        base.extending(video, before=4),
        base.connecting(video[:, :, :3], video[:, :, 3:7], 4),
        base.filling(video, stays),
        Request(count=1, source=video, loop=True, window=7, overlap=3),
    ]
    for request in requests:
        made = generate(model, request).video
        assert made.shape[3:] == video.shape[3:]
        assert torch.isfinite(made).all()


def test_prompts_are_expanded_and_keep_what_they_state(run: Loaded):
    answer = run.answer("a red circle", "a blue square moves up", expand=True, frames=1, size=(8, 8))
    assert len(answer.notes) == 2
    for note, words in zip(answer.notes, (("blue", "square", "up"), ("red", "circle")), strict=True):
        long = note.partition("expanded to ")[2]
        assert all(word in long for word in words), note


def test_clips_of_mixed_sizes_are_scored(run: Loaded):
    """Every clip once, those of one size together; a mean is over all of them."""
    scores = score_run(run.folder, "test", 24, (), "cpu", Silence())
    assert scores["caption.all"]["n"] == 24
    assert 0 <= scores["caption.all"]["low"] <= scores["caption.all"]["value"] <= scores["caption.all"]["high"] <= 1
    protocol = Protocol(split="test", clips=24, reference=40)
    truths = Truth.by_size(run.assembled.dataset, protocol)
    assert len(truths) == 3
    assert sorted(place for truth in truths for place in truth.places) == list(range(24))
    for truth in truths:
        assert isinstance(truth.real.video, torch.Tensor)
        assert truth.real.clips == truth.places
        assert truth.reference.shape[1:] == truth.real.video.shape[1:]
        assert len(truth.real) == len(truth.real.prompt or ()) == len(truth.real.state or ())


def test_one_size_is_scored_as_before(catalog: Catalog):
    said = {"data": {"type": "shapes", "frames": 3, "size": [8, 8], "clips": 8, "held": 8}}
    dataset = assemble(Recipe.of(said), catalog, "meta").dataset
    [truth] = Truth.by_size(dataset, Protocol(split="test", clips=6, reference=8))
    assert truth.places == (0, 1, 2, 3, 4, 5)
    assert len(truth.reference) == 8
    assert isinstance(truth.real.video, torch.Tensor)
