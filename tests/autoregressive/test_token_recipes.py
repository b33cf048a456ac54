"""The small recipes of the token lineage: each assembles, trains a few steps of every phase, and samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mutoscope.core.generation import Request, generate
from mutoscope.core.training.run import train
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe

RECIPES = ("08-videogpt", "09-nuwa", "13-transformer", "14-gpt3", "27-igpt", "28-dalle", "29-parti")
PROMPTS = ("a red circle moves left", "a blue square moves up")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(strict=True)


def trained(name: str, catalog: Catalog, folder: Path, *overrides: str):
    recipe = load_recipe(f"lineage/{name}", ["training.batch=4", "data.clips=64", *overrides])
    made = assemble(recipe, catalog)
    train(made.model, made.plan, folder)
    return made, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains_and_samples(name: str, catalog: Catalog, tmp_path: Path) -> None:
    few = ("training.phases.0.steps=2", "training.phases.0.batch=4", "training.phases.1.steps=3")
    made, log = trained(name, catalog, tmp_path, *few)
    losses = [row["loss"] for row in log]
    assert all(torch.isfinite(torch.tensor(losses))), losses
    assert {row["phase"] for row in log} == {"0-autoencoder", "1-denoiser"}
    clip = made.model.clip
    video = generate(made.model, Request(prompts=PROMPTS)).video
    assert video.shape == (2, 3, clip.frames, *clip.size)
    again = generate(made.model, Request(prompts=PROMPTS[1:], clips=(1,))).video
    assert torch.allclose(video[1:], again, atol=1e-5), "a sample depends on its batch mates"


@pytest.mark.parametrize("name", ["14-gpt3", "28-dalle"])
def test_a_short_run_lowers_the_loss(name: str, catalog: Catalog, tmp_path: Path) -> None:
    few = (
        "training.phases.0.steps=2", "training.phases.0.batch=4", "training.phases.1.steps=12", "training.warmup=2",
        "training.log_every=1",
    )  # fmt: skip
    _, log = trained(name, catalog, tmp_path, *few)
    nats = [row["nats"] for row in log if row["phase"] == "1-denoiser"]
    assert sum(nats[-3:]) / 3 < 0.9 * nats[0], nats


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_codebooks_are_used(name: str, catalog: Catalog, tmp_path: Path) -> None:
    """Perplexity above a fifth of the codebook, and a reconstruction better than the mean picture."""
    recipe = load_recipe(f"lineage/{name}", ["training.phases.1.steps=1"])
    made = assemble(recipe, catalog)
    train(made.model, made.plan, tmp_path)
    video = made.dataset.batch("test", list(range(128))).video
    assert isinstance(video, torch.Tensor)
    coder = made.model.autoencoder
    ids = coder.encode(video)
    codes = next(iter(coder.facts())).codebook
    assert codes is not None
    assert isinstance(ids.values, torch.Tensor)
    share = torch.bincount(ids.values.flatten(), minlength=codes).double() / ids.values.numel()
    perplexity = float((-(share * share.clamp(min=1e-12).log()).sum()).exp())
    error = (coder.decode(ids) - video).square().mean()
    assert error < 0.5 * (video - video.mean(0)).square().mean()
    if name == "27-igpt":
        # Most pixels are background, one colour, so that no palette of theirs has a high perplexity: all are in use.
        assert int((share > 0).sum()) == codes
    else:
        assert perplexity > 0.2 * codes, f"perplexity {perplexity:.1f} of {codes}"
