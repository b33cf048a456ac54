"""The recipes of references 19 to 25 and 32: the papers' counts, and small ones that train and sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import load, train_recipe
from mutoscope.registry.shipped import folder

OURS = ("19", "20", "21", "22", "23", "24", "25", "32")
PAPER = sorted(path.stem for path in (folder() / "paper").glob("*.yaml") if path.stem[:2] in OURS)
LINEAGE = (
    "19-ldm",
    "20-vae",
    "21-nonequilibrium",
    "22-ddpm",
    "23-improved-ddpm",
    "24-adm",
    "25-edm",
    "32-sdedit",
)
EXACT = {
    "19-ldm-kl-f8": 83_653_863,
    "19-ldm-vq-f4": 55_322_782,
    "19-ldm-celebahq": 274_056_163,
    "19-ldm-imagenet-f4": 400_920_579,
    "19-ldm-text-to-image": 1_454_294_526,
    "22-ddpm-cifar10": 35_746_307,
    "22-ddpm-256": 113_673_219,
    "23-improved-ddpm-64-ch64": 30_303_494,
    "23-improved-ddpm-64-ch128": 121_063_942,
    "23-improved-ddpm-cifar10": 52_546_438,
    "24-adm-64": 295_904_454,
    "24-adm-128": 421_529_606,
    "24-adm-64-to-256": 311_795_910,
    "24-adm-classifier-128": 42_568_040,
    "25-edm-cifar-ddpmpp": 55_733_891,
    "25-edm-cifar-ddpmpp-class": 55_735_299,
    "25-edm-imagenet64-adm": 295_899_267,
    "32-sdedit": 113_673_219,
}
"""Counted on released code."""
ROUNDED = {"23-improved-ddpm-cifar10": 0.06}
"""How far a count is from what its source prints, where that is a round number."""
QUICK = (
    "20-vae-mnist",
    "21-nonequilibrium",
    "22-ddpm-cifar10",
    "24-adm-128",
    "24-adm-classifier-128",
    "25-edm-cifar-ddpmpp-class",
)
UNCOUNTED = (
    *(f"19-ldm-{name}" for name in ("kl-f4", "kl-f16", "kl-f32", "vq-f8", "vq-f16")),
    "20-vae-mnist",
    "21-nonequilibrium",
)
"""Whose papers print no count."""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    torch.set_num_threads(1)
    return Catalog.load()


def test_every_paper_recipe_is_there() -> None:
    ldm = ("kl-f4", "kl-f8", "kl-f16", "kl-f32", "vq-f4", "vq-f8", "vq-f16")
    ldm += ("celebahq", "churches", "imagenet-f8", "imagenet-f4", "text-to-image", "semantic")
    improved = ("64-ch64", "64-ch96", "64-ch128", "64-ch192", "64-class", "cifar10", "upsampler")
    adm = ("64", "128", "256", "512", "256-unconditional", "64-to-256", "128-to-512")
    adm += tuple(f"classifier-{size}" for size in (64, 128, 256, 512))
    edm = ("cifar-ddpmpp", "cifar-ddpmpp-class", "cifar-ncsnpp", "cifar-ncsnpp-class")
    edm += ("ffhq-ddpmpp", "ffhq-ncsnpp", "imagenet64-adm")
    expected = {f"19-ldm-{name}" for name in ldm} | {f"23-improved-ddpm-{name}" for name in improved}
    expected |= {f"24-adm-{name}" for name in adm} | {f"25-edm-{name}" for name in edm}
    expected |= {f"22-ddpm-{name}" for name in ("cifar10", "256", "bedroom-large")}
    assert set(PAPER) == expected | {"20-vae-mnist", "21-nonequilibrium", "32-sdedit"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PAPER]
)
def test_counted_is_published(name: str, catalog: Catalog) -> None:
    told = describe(load_recipe(f"paper/{name}"), catalog)
    assert json.loads(json.dumps(told)) == told
    published, counted = told["published"], told["counted"]
    assert (published is None) == (name in UNCOUNTED)
    if published is None:
        part = "denoiser" if name == "21-nonequilibrium" else "autoencoder"
        assert told["parts"][part]["parameters"] > 0
        if name == "20-vae-mnist":
            assert told["parts"]["autoencoder"]["parameters"] == 815_824
        return
    if name in EXACT:
        assert counted["parameters"] == EXACT[name]
    assert counted["parameters"] == pytest.approx(published["parameters"], rel=ROUNDED.get(name, 0.013))
    if "flops" in published:
        number, unit = published["flops"].split()
        assert unit == "MAC"
        assert counted["flops"] / 2 == pytest.approx(float(number), rel=0.006)


def shortened(name: str, *more: str):
    phases = load_recipe(name).data["training"].get("phases")
    changes = [f"training.phases.{i}.steps=3" for i in range(len(phases))] if phases else ["training.steps=3"]
    changes += [f"training.phases.{i}.batch=4" for i, phase in enumerate(phases or ()) if "batch" in phase]
    if name == "19-ldm":
        changes.append("training.phases.0.objective.start=1")
    return load_recipe(name, [*changes, "training.batch=4", "data.clips=16", "data.held=8", *more])


@pytest.mark.parametrize("name", LINEAGE)
def test_the_small_recipe_trains_and_samples(name: str, catalog: Catalog, tmp_path: Path) -> None:
    recipe = shortened(name)
    train_recipe(recipe, catalog, tmp_path / "run", "cpu")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    phases = recipe.data["training"].get("phases", [{"learn": "denoiser"}])
    assert {record["phase"] for record in records} == {f"{i}-{phase['learn']}" for i, phase in enumerate(phases)}
    run = load(tmp_path / "run", catalog=catalog)
    assert run.done
    if name != "21-nonequilibrium" and hasattr(run.model.sampler, "steps"):
        run.model.sampler.steps = 2
        if hasattr(run.model.sampler, "raised"):
            run.model.sampler.raised = run.model.sampler.times()[:-1]
    video = run.generate("a red circle stays", labels=(3,))
    assert video.shape[1] == 3
    assert torch.isfinite(video).all()


def test_what_cannot_fit_is_refused_and_what_would_is_named(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="noise is added to the data") as refused:
        assemble(
            load_recipe("21-nonequilibrium", ["objective.chain=binomial", "objective.learned=false"]), catalog, "meta"
        )
    assert "binomial" in str(refused.value)
    with pytest.raises(InputError, match="chain of bits"):
        assemble(load_recipe("22-ddpm", ["sampler=binomial"]), catalog, "meta")
    with pytest.raises(InputError, match="tower: adm_classifier"):
        assemble(load_recipe("22-ddpm", ["sampler=classifier_guided", "conditioner=one_hot"]), catalog, "meta")
    with pytest.raises(InputError, match="one_hot"):
        assemble(load_recipe("24-adm", ["conditioner=label"]), catalog, "meta")
    with pytest.raises(InputError, match="teaches the autoencoder"):
        assemble(load_recipe("22-ddpm", ["objective=elbo"]), catalog, "meta")


def test_a_request_brings_a_clip_to_edit(catalog: Catalog) -> None:
    """No strength gives the source back; what stays stays; a sampler that starts from noise says so."""
    made = assemble(shortened("32-sdedit", "sampler.strength=0.0", "sampler.steps=4"), catalog)
    source = torch.rand(3, 3, 1, 16, 16) * 2 - 1
    given = generate(made.model, Request(source=source, at_once=2))
    torch.testing.assert_close(given.video, source, atol=1e-6, rtol=1e-6)
    made = assemble(shortened("32-sdedit", "sampler.strength=0.7", "sampler.steps=4"), catalog)
    stays = torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    stays[..., :8] = True
    edited = generate(made.model, Request(source=source, stays=stays, at_once=2)).video
    torch.testing.assert_close(edited[..., :8], source[..., :8])
    assert not torch.allclose(edited[..., 8:], source[..., 8:], atol=0.05)
    alone = generate(made.model, Request(source=source[2:], stays=stays[2:], clips=(2,))).video
    torch.testing.assert_close(alone[0], edited[2], atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match=r"does not edit.*sdedit"):
        generate(assemble(shortened("22-ddpm"), catalog).model, Request(source=source))


@pytest.mark.parametrize("size", [12, 8])
def test_another_size_is_edited_too(size: int, catalog: Catalog) -> None:
    made = assemble(shortened("32-sdedit", "sampler.steps=3"), catalog)
    source = torch.zeros(1, 3, 2, size, size)
    assert generate(made.model, Request(source=source)).video.shape == source.shape


def test_bits_are_trained_and_sampled(catalog: Catalog, tmp_path: Path) -> None:
    changes = ["objective.chain=binomial", "objective.learned=false", "objective.steps=8", "sampler=binomial"]
    changes += ["autoencoder.scale=1.0", "autoencoder.shift=0.0"]
    train_recipe(shortened("21-nonequilibrium", *changes), catalog, tmp_path / "run", "cpu")
    video = load(tmp_path / "run", catalog=catalog).generate("a red circle stays")
    assert set(video.unique().tolist()) <= {-1.0, 1.0}
