"""Models that look at first frames themselves: VideoGPT's residual network, and the generators that go on from an image."""

from __future__ import annotations

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.generation import Request, generate
from mutoscope.core.model import Model
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch
from mutoscope.plugins.conditioners.first_frames import FirstFrames
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe, load_recipe
from mutoscope.registry.tasks import tasks

SMALL = {
    "data": {"type": "shapes", "frames": 8, "size": [8, 8], "clips": 16, "held": 8},
    "autoencoder": {"type": "videogpt_vq", "codes": 16, "code_width": 8, "stride": [2, 4, 4], "width": 8, "depth": 1},
    "patchifier": {"type": "spacetime", "size": [1, 1, 1]},
    "conditioner": {"type": "first_frames", "width": 4, "features": 12, "blocks": [1, 1, 1, 1]},
    "denoiser": {"type": "videogpt", "width": 36, "depth": 1, "heads": 2},
    "objective": "next_token",
    "sampler": "raster",
    "training": {"steps": 2, "batch": 4},
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(strict=True)


def residual(channels: int, out: int, project: bool) -> int:
    """Weights of a residual block, summed from what the paper's network is made of."""
    own = 27 * channels * out + 27 * out * out + 4 * out
    return own + (channels * out + 2 * out if project else 0)


def test_the_network_has_34_layers_of_the_released_sizes(catalog: Catalog):
    """Counted from the layer list; assembled on the meta device, the whole recipe has as many as it publishes."""
    network = 27 * 3 * 64 + 2 * 64 + (1 + 32 + 32) * 80
    before = 64
    for out, blocks in zip((64, 128, 256, 240), (3, 4, 6, 3), strict=True):
        network += residual(before, out, True) + (blocks - 1) * residual(out, out, False)
        before = out
    made = assemble(load_recipe("paper/08-videogpt-frame"), catalog, "meta").model
    assert isinstance(made, Model)
    [conditioner] = made.conditioners
    assert sum(p.numel() for p in conditioner.parameters()) == network == 33_895_344
    looking = 8 * (576 * 576 + 2 * 240 * 576 + 240 * 240 + 576 + 2 * 576)
    assert sum(p.numel() for p in made.denoiser.parameters()) == 33_238_464 + looking
    assert sum(isinstance(m, torch.nn.Conv3d) and m.kernel_size != (1, 1, 1) for m in conditioner.modules()) == 33
    assert next(iter(conditioner.facts())).length == 32 * 32


def test_it_looks_at_the_frames_and_at_nothing_else(catalog: Catalog):
    """Training gives the frames of the video, and so does a request; what it makes depends on them."""
    from mutoscope.core.training.feed import Feed, Share

    made = assemble(Recipe.of(SMALL), catalog)
    model = made.model
    assert isinstance(model, Model)
    feed = Feed(made.dataset, model, Share(4, 1), 0, 2, True, 1 << 30)
    [(_, batch)] = next(iter(feed.from_step(0)))
    real = made.dataset.batch("train", batch.clips).video
    assert isinstance(real, torch.Tensor)
    assert batch.video is None
    assert batch.opening is not None
    assert torch.equal(batch.opening, real[:, :, :1])
    seen = []
    model.conditioners[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    request = Request(count=4).animating(real[:, :, 0], 8)
    video = generate(model, request).video
    assert torch.equal(seen[0], real[:, :, :1])
    assert torch.equal(video[:, :, 0], real[:, :, 0])


def test_prior_frames_are_asked_for_by_attention():
    """Every feature changes what is attended to, and a clip that shows nothing gets frames that were kept."""
    part = FirstFrames(ClipFact(3, 4, (8, 8)), width=4, features=6, blocks=(1, 1, 1, 1), kept=4)
    shown = torch.rand(3, 3, 1, 8, 8)
    draw = Draw(0, "test", 0, (0, 1, 2))
    part.train().embed(Batch(clips=(0, 1, 2), opening=shown), draw)
    kept = part.eval().embed(Batch(clips=(7,)), draw.of((7,))).sequence
    own = part.embed(Batch(clips=(0, 1, 2), opening=shown), draw).sequence
    assert kept is not None
    assert own is not None
    assert min((kept[0] - clip).abs().max() for clip in own) < 1e-5
    assert own.shape == (3, 4, 6)


def test_tasks_of_models_that_look(catalog: Catalog):
    said = {t.task: t for t in tasks(assemble(Recipe.of(SMALL), catalog, "meta").stages, catalog)}
    assert said["animate an image"].possible
    assert not said["connect two videos"].possible


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"features": 8}, "divides by 3"),
        ({"stride": (1, 3, 4)}, "powers of two"),
        ({"stride": (2, 4, 4)}, "does not divide"),
    ],
)
def test_mistakes(settings: dict, problem: str):
    with pytest.raises(InputError, match=problem):
        FirstFrames(ClipFact(3, 4, (8, 8)), **settings)


def test_paper_recipes_that_go_on_from_frames(catalog: Catalog):
    """They build, and can do what they are for."""
    for name in ("04-vgan-image", "06-dvdgan-frame", "08-videogpt-frame"):
        stages = assemble(load_recipe(f"paper/{name}"), catalog, "meta").stages
        done = {t.task for t in tasks(stages, catalog) if t.possible}
        assert "extend a video" in done, name
