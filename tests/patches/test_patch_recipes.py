"""The recipes of references 15 to 18 and 26: the papers' counts, and small ones that train and sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import load, train_recipe
from mutoscope.registry.shipped import folder

PAPER = sorted(
    path.stem for path in (folder() / "paper").glob("*.yaml") if path.stem[:2] in ("15", "16", "17", "18", "26")
)
LINEAGE = ("15-vit", "16-vivit", "17-mae", "18-navit", "26-dit")
QUICK = ("15-vit-b-16", "17-mae-b-16", "18-navit-b-16", "26-dit-s-8")
EXACT = {
    "15-vit-b-16": 86_567_656,
    "15-vit-l-16": 304_326_632,
    "15-vit-l-32": 306_535_400,
    "16-vivit-1": 88_954_000,
    "16-vivit-2": 115_062_928,
    "17-mae-b-16": 111_655_680,
    "26-dit-s-8": 33_142_016,
    "26-dit-s-4": 32_920_448,
    "26-dit-s-2": 32_865_056,
    "26-dit-xl-8": 675_664_640,
    "26-dit-xl-4": 675_000_704,
    "26-dit-xl-2": 674_834_720,
    "26-dit-xl-2-in-context": 449_162_528,
}
"""Counted on released code, or from the architecture as published."""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    torch.set_num_threads(1)
    return Catalog.load()


def test_every_paper_recipe_is_there() -> None:
    dit = {f"26-dit-{size}-{patch}" for size in ("s", "b", "l", "xl") for patch in (8, 4, 2)}
    dit |= {f"26-dit-xl-2-{block}" for block in ("in-context", "cross-attention", "adaln")}
    vit = {f"15-vit-{name}" for name in ("b-16", "l-16", "l-32", "h-14")}
    vivit, mae = {f"16-vivit-{n}" for n in (1, 2, 3, 4)}, {f"17-mae-{name}" for name in ("b-16", "l-16", "h-14")}
    assert dit | vit | vivit | mae | {"18-navit-b-16"} == set(PAPER)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PAPER]
)
def test_counted_is_published(name: str, catalog: Catalog) -> None:
    told = describe(load_recipe(name), catalog)
    assert json.loads(json.dumps(told)) == told
    published, counted = told["published"], told["counted"]
    if published is None:
        assert name == "18-navit-b-16"  # the paper prints none
        return
    if name in EXACT:
        assert counted["parameters"] == EXACT[name]
    if published["parameters"]:
        assert counted["parameters"] == pytest.approx(published["parameters"], rel=0.006 if name[:2] == "26" else 0.001)
    if "flops" in published:
        number, unit = published["flops"].split()
        assert unit == "MAC"
        # ViViT's table counts what its library counts; DiT's agrees to rounding.
        assert counted["flops"] / 2 == pytest.approx(float(number), rel=0.006 if name[:2] == "26" else 0.05)


@pytest.mark.parametrize("name", LINEAGE)
def test_the_small_recipe_trains_and_samples(name: str, catalog: Catalog, tmp_path: Path) -> None:
    phases = load_recipe(name).data["training"]["phases"]
    changes = [f"training.phases.{i}.steps=3" for i in range(len(phases))]
    changes += [f"training.phases.{i}.batch=4" for i, phase in enumerate(phases) if "batch" in phase]
    recipe = load_recipe(name, [*changes, "training.batch=4", "data.clips=16", "data.held=8"])
    train_recipe(recipe, catalog, tmp_path / "run", "cpu")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {record["phase"] for record in records} == {f"{i}-{phase['learn']}" for i, phase in enumerate(phases)}
    run = load(tmp_path / "run", catalog=catalog)
    assert run.done
    run.model.sampler.steps = 2
    video = run.generate("a red circle moves left", labels=(3,))
    assert video.shape[1] == 3
    assert torch.isfinite(video).all()
    if run.model.tower is not None:
        logits = run.model.tower.features(video).logits
        assert logits.shape == (1, 18)


def test_what_does_not_fit_packed_rows_is_refused_with_what_would(catalog: Catalog) -> None:
    for part in ("vit", "vivit", "unet3d"):
        with pytest.raises(InputError, match="one clip of one size per row") as refused:
            assemble(load_recipe("18-navit", [f"denoiser={part}"]), catalog, device="meta")
        assert "dit" in str(refused.value)
    with pytest.raises(InputError, match="clips of one size"):
        assemble(load_recipe("18-navit", ["patchifier=spacetime"]), catalog, device="meta")


def test_image_weights_start_a_video_tower(catalog: Catalog, tmp_path: Path) -> None:
    """A recipe names a timm checkpoint as `weights`; positions and projection are carried over."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    image = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=64, depth=2, num_heads=2, num_classes=9
    )
    torch.nn.init.normal_(image.pos_embed)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    weights = tmp_path / "image.safetensors"
    text = f"""
data: {{type: shapes, frames: 8, size: [16, 16], clips: 8}}
tower: {{type: vivit, model: 1, tubelet: [2, 4, 4], width: 64, depth: 2, heads: 2, weights: {weights}}}
training: {{batch: 2, phases: [{{learn: tower, objective: classify, steps: 1}}]}}
"""
    (tmp_path / "start.yaml").write_text(text)
    made = assemble(load_recipe(str(tmp_path / "start.yaml")), catalog)
    tower = made.model.tower  # type: ignore[union-attr]
    weight = image.patch_embed.proj.weight
    kernel = tower.embed.weight.view(64, 3, 2, 4, 4)
    assert torch.equal(kernel[:, :, 1], weight)
    assert not kernel[:, :, 0].any()
    assert torch.equal(tower.positions[1:17], image.pos_embed[0, 1:])
    assert torch.equal(tower.blocks[1].attention.qkv.weight, image.blocks[1].attn.qkv.weight)
    assert not tower.head.weight.any()
