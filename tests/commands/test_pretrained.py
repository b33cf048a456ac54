"""Pretrained folders: the same videos come out, and what is damaged or foreign is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mutoscope
from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate
from mutoscope.core.model import Model
from mutoscope.core.storage.weights import load_tensors, save_tensors
from mutoscope.registry import shipped
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import settings_of
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.wording import plain

PROMPT = "a red circle moves left"


@pytest.fixture(scope="module")
def saved(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mutoscope.save_pretrained(mutoscope.load(trained, device="cpu"), tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def own(saved: Path, tmp_path: Path) -> Path:
    """A pretrained folder to damage."""
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "own"))


def test_three_lines_of_python(trained: Path):
    model = mutoscope.load(trained, device="cpu")
    video = model.generate(PROMPT, frames=3, size=(8, 8))
    assert video.shape == (1, 3, 3, 8, 8)
    assert video.min() >= -1
    assert video.max() <= 1
    assert not torch.equal(video, model.generate("a blue square stays", frames=3, size=(8, 8)))


def test_the_same_videos_come_out(trained: Path, saved: Path):
    run, again = mutoscope.load(trained, device="cpu"), mutoscope.from_pretrained(saved, device="cpu")
    for asked in ({}, {"frames": 3, "size": (12, 16)}, {"seed": 5}):
        assert torch.equal(
            run.generate(PROMPT, "a blue square stays", **asked), again.generate(PROMPT, "a blue square stays", **asked)
        )
    assert {n for n, p in again.model.named_parameters() if p.requires_grad} == set()


def test_every_part_has_a_folder_with_all_its_settings(saved: Path):
    parts = ("autoencoder", "patchifier", "conditioner", "objective", "denoiser", "sampler")
    assert sorted(p.name for p in saved.iterdir()) == sorted([*parts, "model.json"])
    for part in parts:
        assert sorted(p.name for p in (saved / part).iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "denoiser" / "config.json").read_text())
    assert (config["role"], config["type"], config["origin"]) == ("denoiser", "dit", "mutoscope")
    dit = Catalog.load().classes("denoiser")["dit"]
    defaults = {s.name: plain(s.default) for s in settings_of(dit)}
    assert config["settings"] == {**defaults, "width": 16, "depth": 2, "heads": 2}
    assert not [p for p in saved.rglob("*") if p.suffix not in (".json", ".safetensors", "")]


def test_a_saved_folder_saves_again_to_the_same(saved: Path, tmp_path: Path):
    mutoscope.save_pretrained(mutoscope.from_pretrained(saved, device="cpu"), tmp_path / "again")
    for file in saved.rglob("*"):
        if file.is_file() and file.name != "model.json":
            assert file.read_bytes() == (tmp_path / "again" / file.relative_to(saved)).read_bytes()


def test_a_cascade(cascade: Path, tmp_path: Path):
    run = mutoscope.load(cascade, device="cpu")
    mutoscope.save_pretrained(run, tmp_path / "model")
    assert (tmp_path / "model" / "small.conditioner.1" / "config.json").is_file()
    again = mutoscope.from_pretrained(tmp_path / "model", device="cpu")
    video = run.generate(PROMPT, labels=(3,), actions=((1,) * 5,))
    assert video.shape == (1, 3, 5, 16, 16)
    assert torch.equal(video, again.generate(PROMPT, labels=(3,), actions=((1,) * 5,)))


QUICK = ("03-world-model", "05-mocogan", "14-gpt3", "18-navit")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in shipped.names(("lineage",))]
)
def test_every_system_comes_back(name: str, tmp_path: Path):
    """Of any family: the same weights and, to the bit, the same sample."""
    model = assemble(load_recipe(f"lineage/{name}"), Catalog.load(), "cpu").model.eval()
    mutoscope.save_pretrained(model, tmp_path / "model")
    again = mutoscope.from_pretrained(tmp_path / "model", device="cpu")
    state = again.model.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(generate(model, Request(seed=2)).video, again.generate(request=Request(seed=2)))


def test_the_data_is_not_needed(saved: Path, own: Path, tmp_path: Path):
    """What the data says of its clips is in the folder; the data itself is never built."""
    content = json.loads((own / "model.json").read_text())
    content["recipe"]["data"] = {"type": "folder", "path": str(tmp_path / "nowhere")}
    (own / "model.json").write_text(json.dumps(content))
    assert mutoscope.from_pretrained(own, device="cpu").generate(PROMPT).shape == (1, 3, 5, 8, 8)


@pytest.mark.parametrize("part", ["autoencoder", "conditioner", "denoiser", "sampler"])
def test_a_part_is_the_weights_of_a_recipe(part: str, trained: Path, saved: Path):
    recipe = load_recipe(trained / "recipe.yaml", [f"{part}.weights={saved / part}"])
    fresh = load_recipe(trained / "recipe.yaml")
    model, other = (assemble(r, Catalog.load(), "cpu", seed=9).model for r in (recipe, fresh))
    assert isinstance(model, Model)
    assert isinstance(other, Model)
    stored = load_tensors(saved / part / "model.safetensors")
    where = f"{part}.0." if part == "conditioner" else f"{part}."
    assert {n: t for n, t in model.state_dict().items() if n.startswith(where)}.keys() == {where + n for n in stored}
    assert all(torch.equal(model.state_dict()[where + n], t) for n, t in stored.items())
    assert part == "sampler" or any(not torch.equal(other.state_dict()[where + n], t) for n, t in stored.items())


def test_no_folder_is_written_over(saved: Path):
    with pytest.raises(InputError, match="is there already"):
        mutoscope.save_pretrained(mutoscope.from_pretrained(saved, device="cpu"), saved)


def test_a_model_without_a_recipe_is_refused(saved: Path, tmp_path: Path):
    model = mutoscope.from_pretrained(saved, device="cpu").model
    model.recipe = None
    with pytest.raises(InputError, match="not assembled from a recipe"):
        mutoscope.save_pretrained(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def _json(change: Callable[[dict], object], file: str = "model.json") -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return damage


def _flip(folder: Path) -> None:
    file = folder / "denoiser" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def _cut(folder: Path) -> None:
    file = folder / "denoiser" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def _rename(folder: Path) -> None:
    file = folder / "denoiser" / "model.safetensors"
    tensors = load_tensors(file)
    tensors["strange"] = tensors.pop("out.bias")
    save_tensors(file, tensors)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model.json": (lambda f: (f / "model.json").unlink(), "is not a pretrained folder"),
    "no JSON": (lambda f: (f / "model.json").write_text("{"), "not a JSON file"),
    "not a mapping": (lambda f: (f / "model.json").write_text("[1]"), "damaged"),
    "another program's": (lambda f: (f / "model.json").write_text('{"_class_name": "DiT"}'), "damaged"),
    "other format": (_json(lambda c: c.update(format=2)), "format 2; this version reads format 1"),
    "no stages": (_json(lambda c: c.update(stages=[])), "damaged"),
    "clip": (_json(lambda c: c["clip"].update(frames="5")), "clip.frames"),
    "outside": (_json(lambda c: c["stages"][0]["parts"]["denoiser"][0].update(folder="../x")), "is no folder"),
    "no config": (lambda f: (f / "sampler" / "config.json").unlink(), "sampler/config.json"),
    "other role": (_json(lambda c: c.update(role="sampler"), "denoiser/config.json"), "is of the role sampler"),
    "unknown part": (_json(lambda c: c.update(type="ditt"), "denoiser/config.json"), 'did you mean "dit"'),
    "unknown setting": (_json(lambda c: c["settings"].update(witdh=3), "denoiser/config.json"), "unknown setting"),
    "plugin": (
        _json(lambda c: c.update(type="mine", origin="/home/x/mine.py"), "denoiser/config.json"),
        "comes from the plugin file /home/x/mine.py; name that file",
    ),
    "package": (_json(lambda c: c.update(type="mine", origin="theirs"), "denoiser/config.json"), "package theirs"),
    "huge": (_json(lambda c: c["settings"].update(width=65536), "denoiser/config.json"), "the file has"),
    "flipped bit": (_flip, "hash differs"),
    "cut": (_cut, "damaged"),
    "renamed": (_rename, "the file has nothing of that name"),
    "no weights": (lambda f: (f / "denoiser" / "model.safetensors").unlink(), "No such file"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_in_one_line(case: str, own: Path):
    damage, said = DAMAGE[case]
    damage(own)
    with pytest.raises(InputError) as refusal:
        mutoscope.from_pretrained(own, device="cpu")
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_runs_no_code(own: Path, tmp_path: Path):
    """A plugin file that a folder names, even one in it, is not imported."""
    (own / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    _json(lambda c: c.update(type="evil", origin=str(own / "evil.py")), "denoiser/config.json")(own)
    _json(lambda c: c["recipe"].update(plugins=[str(own / "evil.py")]))(own)
    with pytest.raises(InputError, match="plugin file"):
        mutoscope.from_pretrained(own, device="cpu")
    assert not (tmp_path / "canary").exists()
