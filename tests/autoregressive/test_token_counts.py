"""Published counts of the token lineage, through the command a user has."""

from __future__ import annotations

import json

import pytest

from mutoscope.core.model import Model
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import load_recipe

EXACT = {
    "08-videogpt": {"autoencoder": 21_141_619, "denoiser": 33_238_464},
    "13-transformer-base": {"denoiser": 63_045_632},
    "13-transformer-big": {"denoiser": 214_171_648},
    "14-gpt3-small": {"denoiser": 125_226_240},
    "14-gpt3-large": {"denoiser": 760_300_032},
    "14-gpt3-xl": {"denoiser": 1_315_723_264},
    "14-gpt3-175b": {"denoiser": 174_604_259_328},
    "27-igpt-s": {"denoiser": 76_571_648},
    "27-igpt-xl": {"denoiser": 6_801_438_720},
    "28-dalle": {"autoencoder": 97_616_006},
}
"""Counted from released code, or in closed form from published dimensions."""

ROUNDED = {
    "14-gpt3-medium": 0.003, "14-gpt3-2.7b": 0.002, "14-gpt3-6.7b": 0.001, "14-gpt3-13b": 0.001,
    "27-igpt-m": 0.002, "27-igpt-l": 0.001, "28-dalle": 0.042, "09-nuwa": 0.02,
}  # fmt: skip
"""How far the count may be from what the source prints."""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


def parts_of(name: str, catalog: Catalog, *overrides: str):
    """The parts of a paper's recipe by role, on the meta device, and the recipe."""
    recipe = load_recipe(f"paper/{name}", list(overrides))
    model = assemble(recipe, catalog, device="meta").model
    assert isinstance(model, Model)
    return dict(model.parts()), recipe


def size(part) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize("name", EXACT)
def test_exact_counts(name: str, catalog: Catalog) -> None:
    parts, _ = parts_of(name, catalog)
    assert {role: size(parts[role]) for role in EXACT[name]} == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_counts(name: str, catalog: Catalog) -> None:
    parts, recipe = parts_of(name, catalog)
    assert size(parts["denoiser"]) == pytest.approx(recipe.data["published"]["parameters"], rel=ROUNDED[name])


@pytest.mark.parametrize("name", ["350m", "750m", "3b", "20b"])
def test_partis_blocks(name: str, catalog: Catalog) -> None:
    """The published sizes are those of the blocks to 3%: 12 d^2 in the encoder, 16 d^2 in the decoder."""
    parts, recipe = parts_of(f"29-parti-{name}", catalog)
    denoiser = parts["denoiser"]
    blocks = sum(size(b) for b in (*denoiser.encoder.blocks, *denoiser.blocks))
    assert blocks == pytest.approx(recipe.data["published"]["parameters"], rel=0.03)


def test_differences_of_the_transformers_table(catalog: Catalog) -> None:
    """No vocabulary fits all rows of table 3, so differences of rows are compared, in millions to its rounding."""

    def millions(*overrides: str) -> float:
        return size(parts_of("13-transformer-base", catalog, *overrides)[0]["denoiser"]) / 1e6

    assert millions("denoiser.depth=8") - millions("denoiser.depth=4") == pytest.approx(30, abs=1)
    assert millions("denoiser.mlp=4096") - millions("denoiser.mlp=1024") == pytest.approx(37, abs=1)
    assert millions() - millions("denoiser.key_width=16") == pytest.approx(7, abs=0.5)


def test_dalles_blocks_are_what_its_dimensions_give(catalog: Catalog) -> None:
    """64 x 12 x 3968^2, and a little for norms and biases."""
    denoiser = parts_of("28-dalle", catalog)[0]["denoiser"]
    assert size(denoiser.blocks) == pytest.approx(12_092_178_432, rel=1e-3)
    assert 12.0e9 < size(denoiser) < 12.5e9


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXACT, *ROUNDED, "29-parti-350m", "29-parti-20b"])
def test_describe_counts_every_recipe_of_the_papers(name: str, catalog: Catalog) -> None:
    told = describe(load_recipe(f"paper/{name}", []), catalog)
    assert told["counted"]["parameters"] > 0
    assert all(phase["exact"] for phase in told["phases"]), "a phase could not be counted"
    assert told["parts"]["denoiser"]["flops"] > 0
    for role, parameters in EXACT.get(name, {}).items():
        assert told["parts"][role]["parameters"] == parameters


def test_the_command_says_the_same_and_the_size_of_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    from mutoscope.commands.main import main

    with pytest.raises(SystemExit) as end:
        main(["describe", "paper/14-gpt3-small", "--json"])
    assert not end.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["parts"]["denoiser"]["parameters"] == 125_226_240
    assert told["tokens"] == 2048
    # Keys and values of 12 layers, 768 features, 2,048 rows, in four bytes.
    assert told["cache"] == 2 * 12 * 768 * 2048 * 4
    # A forward pass is 2 x weights x tokens, and the attention's 4 x rows^2 x width per layer.
    weights = 12 * 12 * 768**2 + 50257 * 768
    assert told["parts"]["denoiser"]["flops"] == 2 * weights * 2048 + 12 * 4 * 2048**2 * 768
