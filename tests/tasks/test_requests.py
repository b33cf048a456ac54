"""Requests that begin from video, asked of models of every family: what stays stays, or they say that they cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate, stream
from mutoscope.core.model import Cascade, Model
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.samplers import named_sampler, other_sampler
from mutoscope.registry.tasks import PLACED, prepare, tasks

DATA = {"type": "shapes", "frames": 9, "size": [8, 8], "clips": 16, "held": 8}
CUBES = {"type": "spacetime", "size": [1, 4, 4]}
DIT = {"type": "dit", "width": 16, "depth": 1, "heads": 2}
TEXT = {"type": "text", "width": 16, "depth": 1, "heads": 2, "length": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "flow": {"denoiser": DIT, "objective": "flow", "sampler": {"type": "euler", "steps": 2}, "conditioner": TEXT},
    "told": {
        "denoiser": DIT,
        "objective": "flow",
        "sampler": {"type": "euler", "steps": 2},
        "conditioner": [TEXT, "known"],
    },
    "opened": {
        "denoiser": DIT,
        "objective": "flow",
        "sampler": {"type": "euler", "steps": 2},
        "conditioner": {"type": "known", "places": {"nothing": 1.0, "first": 1.0}},
    },
    "codes": {
        "autoencoder": {"type": "videogpt_vq", "codes": 16, "code_width": 4, "stride": [1, 4, 4], "width": 8, "depth": 1},
        "patchifier": {"type": "spacetime", "size": [1, 1, 1]},
        "denoiser": {"type": "gpt", "width": 16, "depth": 1, "heads": 2},
        "objective": "next_token",
        "sampler": "raster",
    },
    "holes": {
        "autoencoder": {"type": "videogpt_vq", "codes": 16, "code_width": 4, "stride": [1, 4, 4], "width": 8, "depth": 1},
        "patchifier": {"type": "spacetime", "size": [1, 1, 1]},
        "denoiser": {"type": "gpt", "width": 16, "depth": 1, "heads": 2},
        "objective": "masked_token",
        "sampler": {"type": "maskgit", "steps": 2},
    },
    "adversarial": {"denoiser": {"type": "vgan", "width": 4, "doublings": 2}, "objective": "adversarial", "sampler": "one_step"},
    "adversarial from an image": {
        "denoiser": {"type": "vgan_image", "width": 4, "doublings": 2},
        "objective": "adversarial",
        "sampler": "one_step",
        "conditioner": {"type": "known", "places": {"first": 1.0}},
    },
    "recurrent": {
        "denoiser": {"type": "world_model", "width": 8},
        "objective": "mixture",
        "sampler": "rollout",
        "conditioner": ["action_code", {"type": "opening", "frames": 1}],
    },
}  # fmt: skip
AHEAD = {"animate an image", "extend a video", "long video by windows"}
CAN: dict[str, set[str]] = {
    "flow": {*PLACED, "edit a video"},
    "told": {*PLACED, "edit a video"},
    "opened": {*PLACED, "edit a video"},
    "codes": AHEAD,
    "holes": set(PLACED),
    "adversarial": set(),
    "adversarial from an image": AHEAD,
    "recurrent": AHEAD,
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(strict=True)


def recipe_of(family: str) -> Recipe:
    base = {"data": DATA, "autoencoder": "identity", "patchifier": CUBES, "training": {"steps": 1, "batch": 4}}
    return Recipe.of({**base, **FAMILIES[family]})


@pytest.fixture(scope="module")
def models(catalog: Catalog) -> dict[str, Model]:
    made = {}
    for family in FAMILIES:
        model = assemble(recipe_of(family), catalog).model
        assert isinstance(model, Model)
        made[family] = model
    return made


def requests(frames: int = 9) -> dict[str, Request]:
    video = torch.rand(2, 3, frames, 8, 8) * 2 - 1
    base = Request(count=2, actions=((0,) * frames,) * 2)
    stays = torch.ones(2, frames, 8, 8, dtype=torch.bool)
    box, some = stays.clone(), stays.clone()
    box[:, 2:5, :4] = False
    some[:, 3] = False
    return {
        "animate an image": base.animating(video[:, :, 0], frames),
        "extend a video": base.extending(video[:, :, :4], after=frames - 4),
        "extend it backward": base.extending(video[:, :, :4], before=frames - 4),
        "connect two videos": base.connecting(video[:, :, :3], video[:, :, 3:6], frames - 6),
        "fill in frames": base.filling(
            video, torch.where(torch.arange(frames).view(1, -1, 1, 1) % 2 == 0, stays, False)
        ),
        "fill in regions": base.filling(video, box),
    }


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_task_is_done_or_declined_in_one_line(family: str, models: dict[str, Model], catalog: Catalog):
    """`tasks` says the same as `generate` does, and what stays is as it was given."""
    made = assemble(recipe_of(family), catalog, "meta")
    said = {task.task: task for task in tasks(made.stages, catalog)}
    assert {name for name, task in said.items() if task.possible and (name in PLACED or name == "edit a video")} == CAN[
        family
    ]
    assert all(task.why and "\n" not in task.why for task in said.values())
    model = models[family]
    own = model.sampler
    for task, request in requests().items():
        try:
            if not said[task].possible:
                with pytest.raises(InputError) as declined:
                    generate(model, replace(request, seed=len(prepare(model, request, catalog, {}))))
                assert "\n" not in str(declined.value)
                continue
            notes = prepare(model, request, catalog, {})
            video = generate(model, request).video
            assert request.stays is not None
            assert request.source is not None
            stays = request.stays[:, None].expand_as(video)
            assert torch.equal(video[stays], request.source[stays])
            assert torch.isfinite(video).all()
            assert bool(notes) == (own is not model.sampler)
        finally:
            model.sampler = own


def test_who_could_is_named(models: dict[str, Model], catalog: Catalog):
    asked = requests()
    with pytest.raises(InputError, match=r"vgan has not learned.*dvdgan.*vgan_image could, with the conditioner known"):
        prepare(models["adversarial"], asked["animate an image"], catalog, {})
    with pytest.raises(InputError, match=r"raster makes one thing after another.*maskgit.*repaint"):
        prepare(models["codes"], asked["connect two videos"], catalog, {})
    with pytest.raises(InputError, match="has learned to go on from first, not from its ends"):
        generate(models["opened"], asked["connect two videos"])
    with pytest.raises(InputError, match="sdedit begins from a video"):
        prepare(models["codes"], Request(count=2).editing(torch.zeros(2, 3, 9, 8, 8)), catalog, {})


def test_the_network_is_told_what_it_has_learned_to_be_told(models: dict[str, Model]):
    """Known tokens reach the denoiser clean, at the places asked for, at every call."""
    model, seen = models["told"], []
    handle = model.denoiser.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[2].known)))
    request = requests()["animate an image"]
    generate(model, request)
    handle.remove()
    assert len(seen) == 2
    for tokens, known in seen:
        assert known.where.view(2, 9, 4).all(2).tolist() == [[True] + [False] * 8] * 2
        assert torch.equal(tokens.filled()[:, :4], known.values[:, :4])


def test_another_sampler_takes_over_settings_of_the_same_name(models: dict[str, Model], catalog: Catalog):
    other = other_sampler(models["flow"], catalog, "edit", {"strength": 0.25}, {"type": "euler", "steps": 7})
    assert other is not None
    assert (other.name, other.steps, other.strength) == ("sdedit", 7, 0.25)  # type: ignore[attr-defined]
    assert named_sampler(models["flow"], catalog, "heun").name == "heun"
    with pytest.raises(InputError, match="raster works with a TokenDenoiser; denoiser is dit"):
        named_sampler(models["flow"], catalog, "raster")
    with pytest.raises(InputError, match="unknown sampler"):
        named_sampler(models["flow"], catalog, "euller")


def test_strength_of_an_edit(models: dict[str, Model], catalog: Catalog):
    """None gives the video back; more of it moves further away."""
    model = models["flow"]
    own, video = model.sampler, torch.rand(2, 3, 9, 8, 8) * 2 - 1
    far = []
    for strength in (0.0, 0.4, 0.9):
        request = Request(count=2).editing(video)
        prepare(model, request, catalog, {"strength": strength, "steps": 10})
        far.append((generate(model, request).video - video).abs().mean().item())
    model.sampler = own
    assert far[0] < 1e-6 < far[1] < far[2]


def test_a_clip_does_not_depend_on_its_mates(models: dict[str, Model]):
    request = requests()["connect two videos"]
    together = generate(models["told"], request).video
    alone = generate(models["told"], replace(request.cut(slice(1, 2)), clips=(1,), count=None)).video
    torch.testing.assert_close(together[1:], alone)


def test_windows_and_streams_are_the_same_video(models: dict[str, Model]):
    """A stream's frames are those of a long request; the network never sees more than a window."""
    model, sizes = models["told"], []
    request = Request(prompts=("red", "blue"), frames=24, window=9, overlap=4, seed=3)
    handle = model.denoiser.register_forward_pre_hook(lambda _, args: sizes.append(args[0].positions.shape[1]))
    long = generate(model, request).video
    handle.remove()
    assert long.shape == (2, 3, 24, 8, 8)
    assert set(sizes) == {9 * 4}
    chunks = stream(model, request)
    streamed = torch.cat([next(chunks) for _ in range(4)], dim=2)
    torch.testing.assert_close(streamed[:, :, :24], long)
    with pytest.raises(InputError, match="without end"):
        stream(model, Request(loop=True))


def test_loops(models: dict[str, Model]):
    video = generate(models["told"], Request(count=1, loop=True, frames=12, window=9, overlap=3)).video
    assert video.shape[2] == 12
    assert generate(models["told"], Request(count=1, loop=True)).video.shape[2] >= 9


def test_frames_before_a_video_that_do_not_fill_a_grid(catalog: Catalog):
    """Under a causal autoencoder the smallest grid may be longer: the known end stays at its end."""
    said = {**recipe_of("told").data, "patchifier": {"type": "spacetime", "size": [1, 1, 1]}}
    said["autoencoder"] = {"type": "causal_kl", "channels": 4, "stride": [2, 4, 4], "width": 8, "depth": 1}
    model = assemble(Recipe.of(said), catalog).model
    assert isinstance(model, Model)
    seen = []
    handle = model.denoiser.register_forward_pre_hook(lambda _, args: seen.append(args[2].known.where))
    video = torch.rand(1, 3, 4, 8, 8) * 2 - 1
    made = generate(model, Request().extending(video, before=4))
    handle.remove()
    assert made.video.shape[2] == 8
    assert torch.equal(made.video[:, :, 4:], video)
    assert "sampled 9 frames" in made.notes[0]
    assert seen[0].view(5, 4).all(1).tolist() == [False, False, False, True, True]


def test_a_cascade_is_asked_at_every_stage(catalog: Catalog):
    stage = {**FAMILIES["told"], "autoencoder": "identity", "patchifier": {"type": "spacetime", "size": [1, 2, 2]}}
    said: dict[str, Any] = {
        "data": DATA,
        "stages": [
            {"name": "small", "view": {"frames": 5, "size": [4, 4]}, **stage},
            {"name": "large", **stage, "conditioner": ["enlarged", "known"]},
        ],
        "training": {"steps": 1, "batch": 4},
    }
    model = assemble(Recipe.of(said), catalog).model
    assert isinstance(model, Cascade)
    seen: dict[str, Any] = {}
    for name, part in model.items():
        part.denoiser.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[2].known}))
    request = requests()["animate an image"]
    video = generate(model, request).video
    assert request.source is not None
    assert torch.equal(video[:, :, 0], request.source[:, :, 0])
    assert seen["small"].where.view(2, 5, 4).all(2).tolist() == [[True] + [False] * 4] * 2
    assert seen["large"].where.view(2, 9, 16).all(2).tolist() == [[True] + [False] * 8] * 2
