"""What a phase's address depends on."""

from pathlib import Path

import pytest

from mutoscope.core.storage.weights import save_tensors
from mutoscope.registry.addresses import files_named
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe, load_recipe
from mutoscope.registry.runs import with_addresses

RECIPE = """\
data: clips
autoencoder: {type: squeeze, weights: coder.safetensors}
patchifier: cubes
conditioner: words
denoiser: mlp
objective: straight
sampler: steps
training: {steps: 2, batch: 4, phases: [{learn: autoencoder, objective: rebuild}, {learn: denoiser}]}
"""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load([Path(__file__).parent / "tiny_parts.py"], strict=True, entries=[])


def addresses(recipe: Recipe, catalog: Catalog, device: str) -> list[str]:
    return [p.address for p in with_addresses(assemble(recipe, catalog, device=device), catalog, "cpu").plan.phases]


def test_weights_count_by_content(tmp_path: Path, catalog: Catalog):
    """Other weights under the same name give other addresses; a sketch without memory gives those of the run."""
    file = tmp_path / "tiny.yaml"
    file.write_text(RECIPE)
    coder = assemble(load_recipe(file, ["autoencoder.weights=null"]), catalog).model.autoencoder
    tensors = {name: tensor.detach().clone() for name, tensor in coder.state_dict().items()}
    save_tensors(tmp_path / "coder.safetensors", tensors)
    recipe = load_recipe(file)
    before = addresses(recipe, catalog, "cpu")
    assert addresses(recipe, catalog, "meta") == before
    save_tensors(tmp_path / "coder.safetensors", {name: tensor + 1 for name, tensor in tensors.items()})
    after = addresses(recipe, catalog, "cpu")
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_files_that_settings_name(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "words.txt").write_text("a")
    (tmp_path / "dit").write_text("a file that happens to bear a part's name")
    said = {"type": "dit", "nested": [{"file": "./folder"}, {"file": "missing.bin"}], "ratio": 0.5}
    first = files_named(said, [tmp_path])
    assert list(first) == ["./folder"]
    (tmp_path / "folder" / "words.txt").write_text("b")
    assert files_named(said, [tmp_path]) != first


def test_a_phase_depends_on_what_its_learner_has_learned(tmp_path: Path, catalog: Catalog):
    """A second phase of one learner has another address where the first one is another; the autoencoder's does not ask
    what others have learned."""
    file = tmp_path / "tiny.yaml"
    phases = "[{learn: autoencoder, objective: rebuild}, {learn: autoencoder, objective: rebuild, lr: 0.1}, {learn: denoiser}]"
    file.write_text(
        RECIPE.partition("training")[0].replace(", weights: coder.safetensors", "")
        + f"training: {{steps: 2, batch: 4, phases: {phases}}}"
    )
    before = addresses(load_recipe(file), catalog, "meta")
    after = addresses(load_recipe(file, ["training.phases.0.steps=3"]), catalog, "meta")
    assert all(a != b for a, b in zip(before, after, strict=True))
    swapped = addresses(load_recipe(file, ["denoiser=reader"]), catalog, "meta")
    assert swapped[:2] == before[:2]
    assert swapped[2] != before[2]


def test_stages_depend_on_the_size_of_earlier_video_alone():
    """Of a cascade only what is changed, and what builds on it, is worked on again; a sampler changes no training."""
    catalog = Catalog.load()

    def told(*changes: str) -> dict[str, str]:
        made = with_addresses(
            assemble(load_recipe("lineage/10-imagen-video", changes), catalog, device="meta"), catalog, "cpu"
        )
        return {p.name: p.address for p in made.plan.phases}

    def changed(*changes: str) -> set[str]:
        return {name for name, address in told(*changes).items() if address != whole[name]}

    whole = told()
    assert len(whole) == 4
    assert changed("stages.0.sampler.steps=4", "stages.2.sampler.steps=9") == set()
    assert changed("stages.1.conditioner.1.most=0.1") == {"frames.2-denoiser"}
    assert changed("stages.0.training.phases.1.objective.guidance=1.5") == {"base.1-denoiser"}
    assert changed("stages.0.denoiser.width=20") == {"base.0-denoiser", "base.1-denoiser"}
    assert changed("stages.0.view.frames=2") == set(whole)
