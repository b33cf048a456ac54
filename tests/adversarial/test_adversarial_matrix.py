"""Any generator, under any adversarial loss, against any discriminator, trains a step and samples."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from mutoscope.core.component import Facts
from mutoscope.core.facts import ConditioningFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Tokens
from mutoscope.plugins.adversarial.at_once import Whole

GENERATORS = {
    "vgan": {"code": 8, "width": 4, "doublings": 2},
    "vgan_image": {"width": 4, "doublings": 2},
    "mocogan": {"content": 6, "motion": 4, "width": 4, "doublings": 2},
    "dvdgan": {"content": 6, "width": 4, "multipliers": (2, 1)},
    "longvideogan": {
        "noise_channels": 2,
        "filters": 4,
        "footprints": (3, 9),
        "base": 8,
        "temporal": (8, 8),
        "doublings": 1,
        "in_space": 1,
        "spatial": (8,),
        "padding": 3,
    },
    "at_once": {"width": 16, "depth": 1, "heads": 2},
}
CRITICS = {
    "conv3d": {"width": 4, "depth": 2, "outputs": 2},
    "patch_frames": {"width": 4, "depth": 1},
    "patch_video": {"width": 4, "depth": 2},
    "dvd_spatial": {"width": 4, "multipliers": (1, 2), "frames": 2},
    "dvd_temporal": {"width": 4, "multipliers": (1, 2)},
    "long_video": {"widths": (4, 8), "hidden": 8},
}
LOSSES = ("non_saturating", "softmax", "hinge", "wasserstein", "least_squares")
CANVAS = Tokens.canvas(Grid(4, 8, 8), 3)


@pytest.fixture
def generator(make, facts):
    """A generator by name; the level denoiser of a one-step DiT with it."""

    def made(name: str, given: Facts | None = None):
        if name != "at_once":
            return make("denoiser", name, given, **GENERATORS[name])
        level = (given or facts).with_([Whole()])
        return make("denoiser", name, given, denoiser=make("denoiser", "dit", level, **GENERATORS[name]))

    return made


@pytest.mark.parametrize(("name", "critic"), list(product(GENERATORS, CRITICS)))
def test_a_step_and_a_sample(generator, make, name, critic):
    learner = generator(name).train()
    for step, loss in enumerate(LOSSES):
        objective = make(
            "objective",
            "adversarial",
            discriminators={"one": make("discriminator", critic, **CRITICS[critic])},
            loss=loss,
            r1=1.0,
            r1_every=1 + step % 2,
            augment=("colour", "translate"),
        )
        moved = steps_taken(objective, learner, step)
        assert moved == {"discriminator": True, "learner": True}, loss
    sampler = make("sampler", "one_step", truncation=2.0)
    with torch.no_grad():
        drawn = sampler.sample(learner.eval(), CANVAS, Conditioning(), Draw(0, "sample", 0, (0, 1, 2)))
    assert drawn.filled().shape == (3, 256, 3)
    assert torch.isfinite(drawn.filled()).all()


def test_pooled_conditioning_reaches_generators_and_discriminators(generator, make, facts):
    given = facts.with_([ConditioningFact(pooled=5)])
    told = Conditioning(pooled=torch.randn(3, 5))
    draw = Draw(0, "sample", 0, (0, 1, 2))
    for name in GENERATORS:
        learner = generator(name, given).train()
        for parameter in learner.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        noise = learner.noise(CANVAS, draw)
        other = Conditioning(pooled=told.pooled + 1.0)
        assert not torch.allclose(learner(noise, CANVAS, told), learner(noise, CANVAS, other)), name
    for name, settings in CRITICS.items():
        critic = make("discriminator", name, given, **settings).eval()
        grid = torch.randn(3, 3, 4, 8, 8)
        assert not torch.allclose(critic(grid, told), critic(grid, Conditioning(pooled=told.pooled + 1.0))), name


def steps_taken(objective, learner, step: int) -> dict[str, bool]:
    """One step of every turn by hand; which player's weights moved."""
    objective.train()
    video = Draw(1, "data", 0, (0, 1, 2)).uniform("video", 256, 3) * 2 - 1
    example = Example(CANVAS.with_values(video), Conditioning(), Batch(clips=(0, 1, 2)))
    players = {"learner": learner, "discriminator": objective.discriminators}
    moved = dict.fromkeys(("discriminator", "learner"), False)
    for turn in objective.turns(step):
        owner = turn.partition(".")[0]
        for name, player in players.items():
            player.requires_grad_(name == owner)
        optimizer = torch.optim.SGD(players[owner].parameters(), lr=1e-3)
        before = [p.clone() for p in players[owner].parameters()]
        losses = objective.loss(learner, example, Draw(0, "train", step, (0, 1, 2)), turn)
        assert torch.isfinite(losses.total), turn
        losses.total.backward()
        optimizer.step()
        moved[owner] |= any(not torch.equal(a, b) for a, b in zip(before, players[owner].parameters(), strict=True))
    return moved
