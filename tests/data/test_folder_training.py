"""The whole way: a folder of real files, `mutoscope train`, generation; and one line for what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mutoscope.commands.main import main
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import load, with_addresses

TINY = (
    "data.frames=5", "data.size=[16, 16]", "data.fps=12", "data.held=[0, 0]", "data.workers=1",
    "autoencoder={type: causal_kl, channels: 4, stride: [2, 4, 4], width: 8, depth: 1}",
    "conditioner.width=16", "conditioner.depth=1", "conditioner.length=12", "conditioner.heads=2",
    "denoiser.width=16", "denoiser.depth=1", "denoiser.heads=2", "sampler.steps=2",
    "training={batch: 4, lr: 1e-3, warmup: 1, phases: [{learn: autoencoder, objective: reconstruction, steps: 2}, "
    "{learn: denoiser, steps: 3}]}",
)  # fmt: skip
"""The shipped recipe, small enough to train in a second."""


@pytest.fixture(scope="module", autouse=True)
def one_load():
    """Loading the environment's plugins takes a second; the result is always the same here."""
    real, kept = Catalog.load, Catalog.load()
    Catalog.load = lambda *args, **settings: kept  # type: ignore[method-assign]
    yield
    Catalog.load = real  # type: ignore[method-assign]


@pytest.fixture
def mutoscope(capsys) -> Callable[..., tuple[int, str, list[str]]]:
    """Runs the command line: exit code, standard output, lines of standard error."""

    def run(*words: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err.strip().splitlines()

    return run


@pytest.fixture
def clips(tmp_path, make) -> Path:
    """Captioned files of every kind, odd sizes, a variable rate, a turned one, and broken ones among them."""
    data = tmp_path / "clips"
    make.video(data / "a.mp4")
    make.video(data / "odd.mp4", size=(33, 51), pixels="yuv444p")
    make.video(data / "variable.mp4", frames=16, stamps=[0, 1, 2, 6, 7, 8, 12, 20, 21, 22, 30, 31, 40, 44, 45, 46])
    make.video(data / "turned.mp4", prepare=lambda stream: stream.set_display_rotation(90))
    make.video(data / "b.webm", codec="libvpx-vp9", inner={"deadline": "realtime", "cpu-used": "8"})
    make.video(data / "c.gif", codec="gif", pixels="rgb8", rate=20)
    for n in range(20):
        make.image(data / "walk" / f"{n:02}.png", make.picture(n))
    make.image(data / "still.png", make.picture(3))
    for name in ("a", "odd", "variable", "turned", "b", "c", "walk", "still"):
        (data / f"{name}.txt").write_text(f"a square in {name}")
    whole = make.video(data / "cut.mp4").read_bytes()
    (data / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (data / "text.mp4").write_text("not a video")
    (data / "empty.mp4").write_bytes(b"")
    make.sound(data / "sound.mp4")
    return data


def test_train_and_generate(tmp_path, clips, mutoscope):
    words = ("train", "folder", f"data.path={clips}", "data.bad=0.5", *TINY, "--out", tmp_path / "run")
    code, out, told = mutoscope(*words)
    assert code == 0, told
    assert out.strip() == str(tmp_path / "run")
    assert any("4 of 12 files skipped, 1 files too short for a clip; see" in line for line in told)
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert record["files"] == 12
    assert record["clips"] == {"train": 7, "validation": 0, "test": 0}
    assert [skipped["file"] for skipped in record["skipped"]] == ["cut.mp4", "empty.mp4", "sound.mp4", "text.mp4"]
    assert all(skipped["reason"] for skipped in record["skipped"])
    assert [short["file"] for short in record["short"]] == ["still.png"]

    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {entry["phase"] for entry in losses} == {"0-autoencoder", "1-denoiser"}
    loaded = load(tmp_path / "run")
    assert loaded.done
    video = loaded.generate("a square in odd", "a square in a")
    assert video.shape == (2, 3, 5, 16, 16)
    assert torch.isfinite(video).all()
    assert video.min() >= -1
    assert video.max() <= 1

    code, out, told = mutoscope(*words)  # done already
    assert code == 0, told


def test_without_captions_the_recipe_says_what_fits(tmp_path, clips, mutoscope):
    for text in clips.glob("*.txt"):
        text.unlink()
    words = ("train", "folder", f"data.path={clips}", "data.bad=0.5", *TINY, "--out", tmp_path / "run")
    code, _, told = mutoscope(*words)
    assert code == 2
    assert len(told) == 1
    assert "text needs data with captions; folder gives no captions" in told[0]
    alone = [word for word in words if not str(word).startswith("conditioner")]
    code, _, told = mutoscope(*alone, "conditioner=[]", "sampler.guidance=1")
    assert code == 0, told
    assert load(tmp_path / "run").generate(count=1).shape == (1, 3, 5, 16, 16)


def test_native_sizes_train_packed(tmp_path, clips, mutoscope):
    words = (
        "train", "folder", f"data.path={clips}", "data.bad=0.5", *TINY, "data.fit=native", "data.multiple=[4, 4]",
        "data.size=[12, 16]", "autoencoder=identity", "patchifier={type: navit, size: [1, 4, 4]}",
        "training.phases=[{learn: denoiser, steps: 2}]", "--out", tmp_path / "run",
    )  # fmt: skip
    code, _, told = mutoscope(*words)
    assert code == 0, told
    assert json.loads((tmp_path / "run" / "data.json").read_text())["clips"]["train"] == 8  # the image is one of them


def test_a_phase_is_not_taken_over_from_other_data(clips, make):
    """The same recipe on a folder whose files have changed is another phase."""

    def addresses() -> list[str]:
        recipe = load_recipe("folder", [f"data.path={clips}", "data.bad=0.5", *TINY])
        catalog = Catalog.load()
        return [p.address for p in with_addresses(assemble(recipe, catalog), catalog, "cpu").plan.phases]

    first = addresses()
    assert addresses() == first
    make.video(clips / "a.mp4", frames=30)
    assert not set(addresses()) & set(first)


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        ("missing", 2, "data: folder: path: there is no such folder; got"),
        ("unsaid", 2, "data: folder: path is missing: the folder of your videos, data.path=DIR"),
        ("none", 4, "holds no video and no image"),
        ("broken", 4, "none of 2 files can be read: 0.mp4: is empty; 1.mp4: is not a video or image of a known kind"),
        ("many", 4, "1 of 2 files are broken, more than the share of 0.05 that `bad` allows: 0.mp4: is empty"),
        ("short", 4, "none of 1 file gives a clip: 0.mp4: lasts 0.12 s, a clip more than 0.33 s"),
        ("line", 4, "metadata.jsonl:2: is not JSON"),
        ("unknown", 4, 'metadata.jsonl:1: there is no file "9.mp4"; did you mean "0.mp4"?'),
    ],
)
def test_one_line_and_the_exit_code(tmp_path, make, mutoscope, spoil, code, said):
    data = tmp_path / "clips"
    data.mkdir()
    if spoil in ("broken", "many"):
        (data / "0.mp4").write_bytes(b"")
    elif spoil in ("short", "line", "unknown"):
        make.video(data / "0.mp4", frames=3)
    if spoil == "broken":
        (data / "1.mp4").write_text("text")
    elif spoil == "many":
        make.video(data / "1.mp4")
    elif spoil in ("line", "unknown"):
        name = "9.mp4" if spoil == "unknown" else "0.mp4"
        (data / "metadata.jsonl").write_text(f'{{"file_name": "{name}"}}\nrubbish')
    if spoil not in ("missing", "unsaid", "line", "unknown", "none"):
        for n in (0, 1):
            (data / f"{n}.txt").write_text("a square")
    if spoil == "unknown":
        (data / "metadata.jsonl").write_text('{"file_name": "9.mp4"}')
    path = tmp_path / "nowhere" if spoil == "missing" else "" if spoil == "unsaid" else data
    found, _, told = mutoscope("train", "folder", f"data.path={path or chr(34) * 2}", *TINY, "--out", tmp_path / "run")
    assert found == code, told
    assert len(told) == 1, told
    assert told[0].startswith("mutoscope: ")
    assert said in told[0]
    assert not (tmp_path / "run").exists()
