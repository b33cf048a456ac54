"""Metrics of the world that ask the model: `action` and `quadruplets`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mutoscope.core.checks import checks_of
from mutoscope.core.errors import InputError
from mutoscope.core.generation import Generated, Request
from mutoscope.core.metric import Material
from mutoscope.core.values import Batch
from mutoscope.plugins.world.dataset import Shapes
from mutoscope.plugins.world.drawing import REACH, draw
from mutoscope.plugins.world.metrics import action
from mutoscope.plugins.world.metrics.action import MOVES, PACE, Action
from mutoscope.plugins.world.metrics.quadruplets import Quadruplets
from mutoscope.plugins.world.state import Scene
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe

STEERED = Shapes(frames=9, size=(16, 16), laws=("agent",), held=48)


def steered(scene: Scene, actions: np.ndarray) -> Scene:
    """The scene with its thing led from where it began by other actions."""
    thing = scene.things[0]
    reach = thing.radius * REACH[thing.shape]
    low, high = reach, np.array([1.0, scene.size[1] / scene.size[0]]) - reach
    place, path = thing.positions[0], []
    for t, a in enumerate(actions):
        place = np.clip(place + MOVES[a] * PACE / scene.fps, low, high) if t else place
        path.append(place)
    sprite = replace(scene.sprites[-1], positions=np.array(path))
    return replace(scene, sprites=(*scene.sprites[:-1], sprite))


def drawn(scenes) -> Tensor:
    video = np.stack(list(draw(list(scenes))))
    return torch.from_numpy(video).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)


def scores(video: Tensor, batch: Batch, model: object = None) -> dict[str, float]:
    material = Material(video, batch, video, "test", model=model)  # type: ignore[arg-type]
    return {s.name: float(np.mean(s.clips)) for s in Action().score(material)}  # type: ignore[arg-type]


def test_real_clips_follow_their_actions_and_not_those_of_others() -> None:
    batch = STEERED.batch("test", range(48))
    assert isinstance(batch.video, Tensor)
    assert scores(batch.video, batch)["action"] > 0.99
    other = scores(batch.video.roll(1, dims=0), batch)["action"]
    still = scores(batch.video[:, :, :1].expand_as(batch.video).contiguous(), batch)["action"]
    assert other < 0.5
    assert still < 0.5
    assert scores(torch.full_like(batch.video, -1), batch)["action"] == 0


@pytest.mark.parametrize(("obeys", "least", "most"), [(True, 0.98, 1.0), (False, 0.0, 0.15)])
def test_a_model_that_does_not_listen_fails_the_counterfactual(monkeypatch, obeys: bool, least: float, most: float):
    """Two generators that answer the actions of the data alike; one draws them whatever it is asked."""
    batch = STEERED.batch("test", range(48))
    scenes = batch.state or ()

    def generate(model: object, request: Request) -> Generated:
        assert request.actions is not None and request.clips == tuple(range(48))
        asked = [np.array(a) for a in request.actions] if obeys else [scene.actions for scene in scenes]
        return Generated(drawn(steered(scene, a) for scene, a in zip(scenes, asked, strict=True)))

    monkeypatch.setattr(action, "generate", generate)
    told = scores(drawn(steered(s, s.actions) for s in scenes), batch, model=object())
    assert told["action"] > 0.99
    assert least <= told["action.counterfactual"] <= most


def test_data_without_steered_things_is_refused() -> None:
    batch = Shapes(frames=5, held=8).batch("test", range(8))
    assert isinstance(batch.video, Tensor)
    with pytest.raises(InputError, match="the law `agent`"):
        scores(batch.video, batch)


def recipe(**changes: object) -> Recipe:
    base = {
        "data": {"type": "shapes", "frames": 5, "size": [16, 16], "clips": 32, "held": 64},
        "autoencoder": "identity",
        "patchifier": {"type": "spacetime", "size": [1, 4, 4]},
        "conditioner": {"type": "text", "width": 16, "depth": 1, "heads": 2, "length": 12},
        "denoiser": {"type": "dit", "width": 16, "depth": 1, "heads": 2},
        "objective": "flow",
        "sampler": {"type": "euler", "steps": 1},
        "training": {"steps": 2, "batch": 8},
    }
    return Recipe.of({**base, **changes})


def judged(model: object, dataset: Shapes, sets: int = 12) -> dict[str, float]:
    batch = dataset.batch("test", range(8))
    assert isinstance(batch.video, Tensor)
    metric = Quadruplets(sets=sets, draws=2)
    material = Material(batch.video, batch, batch.video, "test", model, dataset)  # type: ignore[arg-type]
    return {s.name: float(np.mean(s.clips)) for s in metric.score(material)}  # type: ignore[arg-type]


FAMILIES = {
    "flow": {},
    "tokens": {
        "autoencoder": {"type": "palette", "colours": 8}, "patchifier": {"type": "spacetime", "size": [1, 1, 1]},
        "conditioner": {"type": "words", "vocabulary": 64, "length": 10, "width": 16},
        "denoiser": {"type": "gpt", "width": 16, "depth": 1, "heads": 2}, "objective": "next_token", "sampler": "raster",
        "data": {"type": "shapes", "frames": 2, "size": [8, 8], "clips": 32, "held": 64},
    },
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_a_likelihood_is_asked(family: str) -> None:
    built = assemble(recipe(**FAMILIES[family]), Catalog.load())
    built.model.eval()
    told = judged(built.model, built.dataset)  # type: ignore[arg-type]
    kinds = {f"quadruplets.{kind}" for kind in ("vanish", "recolour", "teleport", "swap")}
    assert set(told) == {"quadruplets", *kinds}
    assert all(0 <= value <= 1 for value in told.values())
    assert judged(built.model, built.dataset) == told  # type: ignore[arg-type]


def test_a_loss_that_knows_what_can_be_is_right_always_and_one_that_knows_nothing_half_the_time(monkeypatch) -> None:
    dataset = Shapes(frames=5, size=(16, 16), held=64)
    built = assemble(recipe(), Catalog.load())
    states = dataset.batch("quadruplets", range(48)).state or ()
    losses = {"knows": lambda i: float(not states[i].possible), "contrary": lambda i: float(states[i].possible),
              "nothing": lambda i: 1.0}  # fmt: skip
    for name, right in (("knows", 1.0), ("contrary", 0.0), ("nothing", 0.5)):
        monkeypatch.setattr(Quadruplets, "_loss", lambda self, model, batch, i, seed, of=losses[name]: of(i))
        assert judged(built.model, dataset)["quadruplets"] == right


def test_a_model_without_a_likelihood_has_no_score() -> None:
    adversarial = recipe(
        conditioner=None, denoiser={"type": "vgan", "code": 8, "width": 4, "doublings": 2}, sampler="one_step",
        patchifier={"type": "spacetime", "size": [1, 1, 1]},
        data={"type": "shapes", "frames": 8, "size": [16, 16], "clips": 32, "held": 64},
        objective={"type": "adversarial", "discriminators": {"video": {"type": "conv3d", "width": 4, "depth": 2}}},
    )  # fmt: skip
    built = assemble(adversarial, Catalog.load())
    assert judged(built.model, built.dataset) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("part", [Action, Quadruplets], ids=lambda p: p.name)
def test_they_keep_the_contract(part) -> None:
    for check in checks_of(part):
        check.run()
