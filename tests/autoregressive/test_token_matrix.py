"""Any discrete autoencoder with any token denoiser and either objective trains and samples; others are refused."""

from __future__ import annotations

import json

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate
from mutoscope.core.model import Model
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Example
from mutoscope.registry import repairs
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe, load_recipe

AUTOENCODERS = ("fsq", "lfq", "palette", "videogpt_vq", "vqgan", "vit_vqgan", "dvae")
DENOISERS = ("gpt", "igpt", "videogpt", "dalle", "nuwa", "parti", "transformer")
SAMPLERS = {"next_token": "raster", "masked_token": {"type": "maskgit", "steps": 3}}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(strict=True)


def recipe(catalog: Catalog, tmp_path, **parts) -> Recipe:
    """A small recipe; every part as small as its own `tiny` makes it."""

    def small(role: str, name: str) -> dict:
        cls = catalog.find(role, name)
        assert cls is not None
        return {"type": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in cls.tiny.items()}}

    coder = parts["autoencoder"]
    said = {
        "data": {"type": "shapes", "frames": 5, "size": [8, 8] if coder == "palette" else [16, 16], "clips": 8},
        "patchifier": {"type": "spacetime", "size": [1, 1, 1]},
        "conditioner": {"type": "words", "vocabulary": 64, "length": 6, "width": 8},
        "training": {"batch": 2, "phases": [{"learn": "denoiser", "steps": 1}]},
        "autoencoder": small("autoencoder", coder),
        "denoiser": small("denoiser", parts["denoiser"]),
        "objective": parts["objective"],
        "sampler": parts.get("sampler") or SAMPLERS[parts["objective"]],
    }
    if "patch" in parts:
        said["patchifier"]["size"] = parts["patch"]
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(said))
    return load_recipe(str(path), [])


def trains_and_samples(catalog: Catalog, tmp_path, coder: str, denoiser: str, objective: str) -> None:
    made = assemble(recipe(catalog, tmp_path, autoencoder=coder, denoiser=denoiser, objective=objective), catalog)
    model = made.model
    assert isinstance(model, Model)
    batch, draw = made.dataset.batch("train", [0, 1]), Draw(0, "train", 0, (0, 1))
    assert isinstance(batch.video, torch.Tensor)
    latents = model.autoencoder.eval().encode(batch.video)
    tokens = model.patchifier.patchify(latents, draw)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        example = Example(tokens, model.embed(batch, draw), batch)
        loss = model.objective.loss(model.denoiser.train(), example, draw, "learner").total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0], f"a step does not lower the loss: {losses}"
    video = generate(model, Request(prompts=("a red circle moves left",))).video
    assert video.shape[1:] == batch.video.shape[1:]
    assert torch.isfinite(video).all()


@pytest.mark.parametrize("objective", SAMPLERS)
@pytest.mark.parametrize("i", range(len(DENOISERS)), ids=DENOISERS)
def test_every_denoiser_under_every_objective(catalog: Catalog, tmp_path, i: int, objective: str) -> None:
    """Each with another autoencoder, so that all of them are met under both objectives."""
    coder = AUTOENCODERS[(i + 3 * (objective == "masked_token")) % len(AUTOENCODERS)]
    trains_and_samples(catalog, tmp_path, coder, DENOISERS[i], objective)


@pytest.mark.slow
@pytest.mark.parametrize("objective", SAMPLERS)
@pytest.mark.parametrize("denoiser", DENOISERS)
@pytest.mark.parametrize("coder", AUTOENCODERS)
def test_the_whole_matrix(catalog: Catalog, tmp_path, coder: str, denoiser: str, objective: str) -> None:
    trains_and_samples(catalog, tmp_path, coder, denoiser, objective)


@pytest.mark.parametrize("denoiser", ["gpt", "parti"])
def test_continuous_latents_are_refused_with_repairs(catalog: Catalog, tmp_path, denoiser: str, monkeypatch) -> None:
    monkeypatch.setattr(repairs, "SECONDS", 120.0)  # however loaded the machine is
    said = recipe(catalog, tmp_path, autoencoder="causal_kl", denoiser=denoiser, objective="next_token")
    with pytest.raises(InputError) as refused:
        assemble(said, catalog)
    line = next(line for line in str(refused.value).splitlines() if f"{denoiser} needs ids of a codebook" in line)
    for fits in ("fsq", "lfq", "vqgan", "vit_vqgan", "dvae"):
        assert fits in line.partition("would fit:")[2], line


def test_what_does_not_fit_is_refused_at_assembly(catalog: Catalog, tmp_path) -> None:
    wrong = recipe(catalog, tmp_path, autoencoder="fsq", denoiser="gpt", objective="masked_token", sampler="raster")
    with pytest.raises(InputError, match=r"raster needs ids predicted in raster order.*maskgit"):
        assemble(wrong, catalog)
    wrong = recipe(catalog, tmp_path, autoencoder="fsq", denoiser="gpt", objective="next_token", sampler="maskgit")
    with pytest.raises(InputError, match=r"maskgit needs ids predicted in any order.*raster"):
        assemble(wrong, catalog)
    wrong = recipe(catalog, tmp_path, autoencoder="fsq", denoiser="gpt", objective="next_token", patch=[1, 2, 2])
    with pytest.raises(InputError, match="ids of a codebook cannot be joined"):
        assemble(wrong, catalog)
