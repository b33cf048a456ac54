"""The recipes of references 10 to 12: the papers' counts, and small cascades that train, resume and sample."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate
from mutoscope.core.model import stages_of
from mutoscope.core.storage.checkpoint import newest, read_checkpoint
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import Recipe, load_recipe
from mutoscope.registry.runs import load, train_recipe

WALT = {
    "l-r2": 313_238_408,
    "l-r4": 313_582_472,
    "l-r16": 315_646_856,
    "l-r64": 323_904_392,
    "l-r256": 356_934_536,
    "xl": 460_019_080,
}
STAGES = (5.6e9, 1.7e9, 1.4e9, 1.2e9, 780e6, 630e6, 340e6)
"""Of Imagen Video, as its figure prints them."""
LDM = {"sd14": (859_520_964, 649_687_078), "sd21": (865_910_724, 656_076_838)}
"""Parameters of the image model and of the layers of time."""
LINEAGE = ("10-imagen-video", "11-video-ldm", "12-walt")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    torch.set_num_threads(1)
    return Catalog.load()


def parameters(part: torch.nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize("name", [n if n == "l-r2" else pytest.param(n, marks=pytest.mark.slow) for n in WALT])
def test_walt_has_the_printed_counts(name: str, catalog: Catalog) -> None:
    said = describe(load_recipe(f"paper/12-walt-{name}"), catalog)
    assert said["counted"]["parameters"] == WALT[name]
    assert said["counted"]["parameters"] == pytest.approx(said["published"]["parameters"], abs=0.5e6)
    if name == "l-r2":
        d, n = 1024, 5 * 16 * 16
        layers = 24 * 12 * d * d + 12 * 2 * (256 + 320) * d
        told = 256 * d + d * d + 24 * 7 * 2 * d + 6 * d * d + 2 * d * d
        assert said["parts"]["denoiser"]["flops"] == 2 * (n * layers + told + n * (16 * d + 8 * d))


@pytest.mark.slow
@pytest.mark.parametrize("name", LDM)
def test_video_ldm_has_the_published_counts(name: str, catalog: Catalog) -> None:
    recipe = load_recipe(f"paper/11-video-ldm-{name}")
    made = assemble(recipe, catalog, "meta")
    denoiser = made.model.denoiser  # type: ignore[union-attr]
    assert (parameters(denoiser.image), parameters(denoiser.time)) == LDM[name]  # type: ignore[arg-type]
    said = describe(recipe, catalog)
    assert said["counted"]["parameters"] == sum(LDM[name])
    assert said["counted"]["parameters"] == pytest.approx(said["published"]["parameters"], rel=1e-3)
    assert said["parts"]["denoiser"]["trained"] == LDM[name][1]
    image = next(part for address, part in said["parts"].items() if address == "autoencoder.image")
    assert image["parameters"] == 83_653_863


@pytest.mark.slow
def test_imagen_video_is_fitted_to_the_printed_counts(catalog: Catalog) -> None:
    """Its widths are not published, so that this proves no more than that a cascade of these sizes assembles."""
    recipe = load_recipe("paper/10-imagen-video")
    counts = [parameters(stage.denoiser) for _, stage in stages_of(assemble(recipe, catalog, "meta").model)]
    for count, printed in zip(counts, STAGES, strict=True):
        assert count == pytest.approx(printed, rel=0.02)
    assert sum(counts) == pytest.approx(recipe.data["published"]["parameters"], rel=0.02)


def shortened(name: str, *more: str) -> Recipe:
    """A lineage recipe with two steps a phase of two clips, and few steps of sampling."""
    recipe, changes = load_recipe(name), ["training.batch=2", "data.clips=8", "data.held=4"]
    for i, stage in enumerate(recipe.data["stages"]):
        changes.append(f"stages.{i}.sampler.steps=2")
        for j, phase in enumerate(stage["training"]["phases"]):
            at = f"stages.{i}.training.phases.{j}"
            changes += [f"{at}.steps=2"] + ([f"{at}.batch=2"] if "batch" in phase else [])
            objective = phase.get("objective")
            if isinstance(objective, dict) and objective["type"] == "distil":
                changes += [f"{at}.objective.fold=1", f"{at}.objective.each=1"]
            if isinstance(objective, dict) and objective["type"] == "decoder_only":
                changes.append(f"{at}.objective.objective.start=1")
    return load_recipe(name, [*changes, *more])


@pytest.mark.parametrize("name", LINEAGE)
def test_the_small_cascade_trains_and_samples(name: str, catalog: Catalog, tmp_path: Path) -> None:
    recipe = shortened(name)
    train_recipe(recipe, catalog, tmp_path / "run", "cpu")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    phases = [(s["name"], p["learn"]) for s in recipe.data["stages"] for p in s["training"]["phases"]]
    assert list(dict.fromkeys(r["phase"] for r in records)) == [f"{s}.{i}-{p}" for i, (s, p) in enumerate(phases)]
    if name == "10-imagen-video":
        assert {record["round"] for record in records if "round" in record} >= {0.0, 1.0}
    run = load(tmp_path / "run", catalog=catalog)
    assert run.done
    video = run.generate("a red circle stays")
    size = recipe.data["data"]
    assert video.shape == (1, 3, size["frames"], *size["size"])
    assert torch.isfinite(video).all()
    assert "caption" in recipe.data["metrics"]


def broken_off(folder: Path, other: Path, phase: int) -> None:
    """A copy of a run as it was after the first step of a phase."""
    shutil.copytree(folder, other)
    for path in sorted((other / "checkpoints").iterdir()):
        state = read_checkpoint(path)[1]
        if (state["phase"], state["step"]) > (phase, 1):
            shutil.rmtree(path)


def last_model(folder: Path) -> dict[str, torch.Tensor]:
    found = newest(folder / "checkpoints")
    assert found is not None
    return read_checkpoint(found)[0]["model"]


@pytest.mark.parametrize(
    ("name", "phase"), [("10-imagen-video", 1), pytest.param("11-video-ldm", 2, marks=pytest.mark.slow)]
)
def test_a_run_resumes_within_a_phase_to_the_last_bit(name: str, phase: int, catalog: Catalog, tmp_path: Path) -> None:
    """Distillation with its teacher; layers of time, around which the image model, the prompt's features and the
    encoder stay what they were through their phases."""
    recipe = shortened(name, "training.checkpoint_every=1", "training.keep=100")
    train_recipe(recipe, catalog, tmp_path / "a" / "run", "cpu")
    broken_off(tmp_path / "a" / "run", tmp_path / "b" / "run", phase)
    train_recipe(recipe, catalog, tmp_path / "b" / "run", "cpu")
    last, again = last_model(tmp_path / "a" / "run"), last_model(tmp_path / "b" / "run")
    assert last.keys() == again.keys()
    for key, tensor in last.items():
        assert torch.equal(tensor, again[key]), key
    if name != "11-video-ldm":
        return
    states = [read_checkpoint(path) for path in sorted((tmp_path / "a" / "run" / "checkpoints").iterdir())]
    before, after = (next(p for p, s in states if s["phase"] == i and not s["step"])["model"] for i in (2, 3))
    for key, tensor in before.items():
        if key.startswith(("stages.clips.denoiser.image.", "stages.clips.conditioner.")):
            assert torch.equal(tensor, after[key]), key
        if key.startswith("stages.clips.autoencoder.image.encoder"):
            assert torch.equal(tensor, last[key]), key
    moved = [k for k in before if k.startswith("stages.clips.denoiser.time.") and not torch.equal(before[k], after[k])]
    assert len(moved) > 10


@pytest.mark.parametrize("name", ["11-video-ldm", "12-walt"])
def test_a_stage_goes_on_from_first_frames_where_it_has_learned_to(name: str, catalog: Catalog) -> None:
    model = assemble(shortened(name), catalog).model
    stage = next(stage for _, stage in stages_of(model))
    source = torch.rand(1, 3, stage.clip.frames, 16, 16) * 2 - 1
    stays = torch.zeros(source.shape[0], *source.shape[2:], dtype=torch.bool)
    stays[:, 0] = True
    request = Request(source=source, stays=stays, prompts=("a red circle moves left",))
    if name[:2] == "12":
        with pytest.raises(InputError, match="has not learned to go on"):
            generate(stage, request)
        return
    torch.manual_seed(0)
    with torch.no_grad():  # layers that are silent at first are told nothing
        for parameter in stage.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    made = generate(stage, request).video
    torch.testing.assert_close(made[:, :, 0], source[:, :, 0])
    other = generate(stage, Request(source=-source, stays=stays, prompts=("a red circle moves left",))).video
    assert not torch.allclose(made[:, :, 1:], other[:, :, 1:])


def test_what_does_not_fit_is_refused_within_a_wrapper_too(catalog: Catalog) -> None:
    with pytest.raises(InputError, match=r"zero_snr works with a RecallingDenoiser.*dit"):
        assemble(load_recipe("quickstart", ["objective={type: joint_images, objective: zero_snr}"]), catalog, "meta")
    with pytest.raises(InputError, match="time_only works with a Inflated"):
        assemble(load_recipe("quickstart", ["objective=time_only"]), catalog, "meta")
