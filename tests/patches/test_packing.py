"""Packing: every token once, little padding, and packed clips that are worked on as if they were alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mutoscope.benchmarks.speed.packing import Work, measure
from mutoscope.core.checks import Straight
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, LatentFact, TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.packing import pack, rows_of, unpack
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Latents, Tokens
from mutoscope.plugins.diffusion.ancestral import Ancestral
from mutoscope.plugins.diffusion.ddpm import Ddpm
from mutoscope.plugins.diffusion.dit import Dit
from mutoscope.plugins.diffusion.euler import Euler
from mutoscope.plugins.diffusion.flow import Flow
from mutoscope.plugins.patches.navit import NavitDenoiser
from mutoscope.plugins.patchifiers.dropping import Dropping, beta_of
from mutoscope.plugins.patchifiers.navit import Navit
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe
from mutoscope.registry.runs import load, train_recipe

GRIDS = (Grid(2, 2, 3), Grid(1, 4, 2), Grid(3, 1, 2), Grid(1, 1, 1), Grid(2, 3, 2))
"""Mixed durations, sizes and aspects: 12, 8, 6, 1 and 12 tokens."""
GIVEN = ConditioningFact(pooled=6, sequence=5, length=4)
LATENT = LatentFact(channels=4, stride=(1, 1, 1), grid=Grid(4, 8, 8), mixed=True)


# The packer


@pytest.mark.parametrize("seed", range(5))
def test_every_clip_is_in_one_row(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 60, 40).tolist()
    rows = rows_of(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(40))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 100


def test_padding_is_under_two_percent() -> None:
    """Over batches of 32 clips of mixed duration, size and aspect."""
    sizes = [Grid(t, h, w) for t in (1, 3, 5) for h, w in ((4, 4), (4, 6), (6, 4), (8, 8))]
    part, chance = Navit(replace(LATENT, grid=Grid(5, 8, 8)), size=(1, 1, 1)), np.random.default_rng(0)
    padding = total = 0
    for _ in range(40):
        grids = [sizes[i] for i in chance.integers(0, len(sizes), 32)]
        clip = part.canvas(grids).clip
        padding, total = padding + int((clip == 0).sum()), total + clip.numel()
    assert padding / total < 0.02


def test_a_clip_longer_than_a_row_has_a_row_as_long() -> None:
    canvas = pack((Grid(1, 4, 4), Grid(1, 1, 2)), 8).canvas
    assert canvas.clip.shape[1] == 16


def test_places_are_those_in_the_own_clip() -> None:
    canvas = pack(GRIDS, 20).canvas
    for i, grid in enumerate(GRIDS, start=1):
        own = canvas.positions[canvas.clip == i]
        assert torch.equal(own, Tokens.canvas(grid, 1).positions[0])
        assert torch.equal(canvas.cells()[canvas.clip == i], torch.arange(grid.cells))


# The patchifier


def latents_of(*grids: Grid, channels: int = 4) -> Latents:
    draw = Draw(1, "latents", 0, tuple(range(len(grids))))
    return Latents(tuple(draw.of((i,)).normal("x", channels, *grid)[0] for i, grid in enumerate(grids)))


def test_unpatchify_is_the_inverse_on_mixed_sizes() -> None:
    part, latents = Navit(LATENT, size=(1, 2, 2)), latents_of(Grid(3, 4, 6), Grid(1, 8, 2), Grid(2, 2, 2))
    tokens = part.patchify(latents)
    assert not tokens.regular
    assert torch.equal(tokens.clip, part.canvas(tokens.grids).clip)
    for one, other in zip(latents.clips(), part.unpatchify(tokens).clips(), strict=True):
        assert torch.equal(one, other)


def test_ids_are_packed_too() -> None:
    part = Navit(replace(LATENT, codebook=16), size=(1, 1, 1))
    latents = Latents((torch.arange(12).view(2, 2, 3), torch.arange(4).view(1, 2, 2)), ids=True)
    back = part.unpatchify(part.patchify(latents))
    assert back.ids
    assert all(torch.equal(a, b) for a, b in zip(latents.clips(), back.clips(), strict=True))


def test_one_size_is_not_packed() -> None:
    part = Navit(replace(LATENT, mixed=False))
    assert part.patchify(latents_of(Grid(2, 4, 4), Grid(2, 4, 4))).regular
    assert not next(iter(part.facts())).packed
    assert next(iter(Navit(replace(LATENT, mixed=False), drop="constant").facts())).packed


def test_dropped_tokens_keep_their_places_and_values() -> None:
    part = Navit(LATENT, size=(1, 2, 2), drop="constant", drop_rate=0.5)
    latents = latents_of(Grid(4, 4, 6), Grid(1, 8, 8))
    whole, some = part.patchify(latents), part.patchify(latents, Draw(0, "train", 3, (4, 9)))
    for i, grid in enumerate(whole.grids, start=1):
        everything = whole.filled()[whole.clip == i]
        kept = some.clip == i
        assert kept.sum() == grid.cells // 2
        assert torch.equal(some.filled()[kept], everything[some.cells()[kept]])
    again = part.patchify(latents, Draw(0, "train", 3, (4, 9)))
    assert torch.equal(some.positions, again.positions)
    assert not torch.equal(some.positions, part.patchify(latents, Draw(0, "train", 4, (4, 9))).positions)
    back = part.unpatchify(some).clips()
    assert any((clip == 0).any() for clip in back)


# How much is dropped


def test_the_mean_of_beta_rates() -> None:
    """Mean drop_rate, and the variance .3 u (1 - u) of the paper, over many clips; never more than drop_most."""
    dropping = Dropping("beta", 0.5, 0.0, 0.8, 0, 1)
    rates = np.array(dropping.rates([10] * 4000, (1, 10), Draw(0, "train", 0, tuple(range(4000)))))
    u = 0.5 / 0.8
    assert rates.mean() == pytest.approx(0.5, abs=0.02)
    assert (rates / 0.8).var() == pytest.approx(0.3 * u * (1 - u), rel=0.1)
    assert rates.max() <= 0.8
    a, b = beta_of(u)
    assert a / (a + b) == pytest.approx(u)


def test_the_share_that_is_dropped() -> None:
    """What is rounded is right on average, also for clips of a few tokens."""
    dropping, draw = Dropping("constant", 0.3, 0, 0, 0, 1), Draw(0, "train", 0, tuple(range(2000)))
    kept = dropping.kept([Grid(1, 1, 4)] * 2000, (1, 4), draw)
    assert np.mean([len(k) for k in kept]) == pytest.approx(4 * 0.7, rel=0.02)


def test_rates_by_size_and_by_schedule() -> None:
    sized = Dropping("size", 0, 0.1, 0.7, 0, 1)
    draw = Draw(0, "train", 0, tuple(range(900)))
    rates = np.array(sized.rates([10] * 300 + [55] * 300 + [100] * 300, (10, 100), draw)).reshape(3, 300)
    assert rates.mean(1) == pytest.approx([0.1, 0.4, 0.7], abs=0.005)
    assert np.abs(rates - rates.mean(1, keepdims=True)).max() < 0.05
    falling = Dropping("schedule", 0, 0.2, 0.8, 100, -20)
    assert falling.scheduled(100) == pytest.approx(0.5)
    assert falling.scheduled(0) == pytest.approx(0.2 + 0.6 / (1 + np.exp(-5)), rel=1e-6)
    assert falling.scheduled(10_000) == pytest.approx(0.2)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"drop": "beta", "drop_rate": 0.9, "drop_most": 0.8}, {"drop": "schedule", "drop_span": 0.0}):
        with pytest.raises(ValueError, match="drop_"):
            Navit(LATENT, **settings)


# What packed clips are for a network


@pytest.fixture(params=["adaln_zero", "adaln", "cross", "navit", "navit-fourier", "navit-product"])
def dit(request: pytest.FixtureRequest) -> LevelDenoiser:
    torch.manual_seed(0)
    fact = TokenFact(4, Grid(3, 4, 3), channels=4, packed=True)
    kind = request.param
    if kind == "navit":
        part = NavitDenoiser(fact, GIVEN, Straight(), width=24, depth=2, heads=2)
    elif kind == "navit-fourier":
        part = NavitDenoiser(
            fact, GIVEN, Straight(), width=24, depth=2, heads=2, kind="fourier", combine="stack", coordinates="absolute"
        )
    elif kind == "navit-product":
        part = NavitDenoiser(fact, GIVEN, Straight(), width=24, depth=2, heads=2, combine="product")
    else:
        part = Dit(fact, GIVEN, Straight(), width=24, depth=2, heads=2, block=kind)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return part


def told(clips: int) -> Conditioning:
    torch.manual_seed(5)
    mask = torch.ones(clips, 4, dtype=torch.bool)
    mask[:, 3] = False
    return Conditioning(pooled=torch.randn(clips, 6), sequence=torch.randn(clips, 4, 5), mask=mask)


def separately(tokens: Tokens, i: int) -> Tokens:
    """One clip of packed tokens as a row of its own."""
    own = tokens.clip == i + 1
    return Tokens.canvas(tokens.grids[i], 1).with_values(tokens.filled()[own][None])


def loss_of(out: Tensor, tokens: Tokens, i: int) -> Tensor:
    return (out[tokens.clip == i + 1].square().mean() * (i + 1)).sum()


def test_packed_is_separate(dit: LevelDenoiser) -> None:
    """Outputs and gradients agree to 1e-5; cross-attention included."""
    packing = pack(GRIDS, 20)
    torch.manual_seed(1)
    packed = packing.fill([torch.randn(grid.cells, 4) for grid in GRIDS])
    assert (packed.clip == 0).any()
    level, conditioning = torch.linspace(50, 950, len(GRIDS)), told(len(GRIDS))
    out = dit(packed, level, conditioning)
    sum((loss_of(out, packed, i) for i in range(len(GRIDS))), torch.zeros(())).backward()
    together = {name: p.grad.clone() for name, p in dit.named_parameters() if p.grad is not None}
    dit.zero_grad()
    for i in range(len(GRIDS)):
        alone = separately(packed, i)
        own = dit(alone, level[i : i + 1], conditioning.each(lambda x, i=i: x[i : i + 1]))
        torch.testing.assert_close(out[packed.clip == i + 1], own[0], atol=1e-5, rtol=1e-5)
        (own.square().mean() * (i + 1)).backward()
    for name, parameter in dit.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_padding_and_neighbours_change_nothing(dit: LevelDenoiser) -> None:
    torch.manual_seed(1)
    packed = pack(GRIDS, 20).fill([torch.randn(grid.cells, 4) for grid in GRIDS])
    level, conditioning = torch.linspace(50, 950, len(GRIDS)), told(len(GRIDS))
    base = dit(packed, level, conditioning)
    other = torch.where((packed.clip == 2)[..., None], packed.filled(), packed.filled() + 3.0)
    changed = dit(packed.with_values(other), level, conditioning)
    own = packed.clip == 2
    torch.testing.assert_close(base[own], changed[own], atol=1e-5, rtol=0)
    assert torch.isfinite(changed).all()


def test_each_clip_weighs_the_same() -> None:
    """The loss of a packed batch is the mean over clips, whatever their length, and equals that of the clips alone."""
    torch.manual_seed(0)
    fact = TokenFact(4, Grid(3, 4, 3), channels=4, packed=True)
    dit, objective = Dit(fact, ConditioningFact(), Straight(), width=24, depth=1, heads=2), Flow()
    torch.nn.init.normal_(dit.out.weight, std=0.1)
    packed = pack(GRIDS, 20).fill([torch.randn(grid.cells, 4) for grid in GRIDS])
    draw = Draw(0, "train", 7, (3, 1, 4, 5, 9))

    def loss(tokens: Tokens, draw: Draw) -> float:
        return objective.loss(dit, Example(tokens, Conditioning(), Batch()), draw, "learner").total.item()

    alone = [loss(separately(packed, i), draw.of((draw.clips[i],))) for i in range(len(GRIDS))]
    assert loss(packed, draw) == pytest.approx(np.mean(alone), abs=1e-5)


@pytest.mark.parametrize(("kind", "objective"), [(Euler, Flow()), (Ancestral, Ddpm())])
def test_packed_clips_are_sampled_as_alone(kind: type, objective: Objective, dit: LevelDenoiser) -> None:
    fact, conditioning, draw = (
        TokenFact(4, Grid(3, 4, 3), 4, packed=True),
        told(5),
        Draw(2, "sample", 0, (0, 1, 2, 3, 4)),
    )
    sampler = kind(fact, objective.process, steps=3)
    with torch.no_grad():
        canvas = pack(GRIDS, 20).canvas
        made = unpack(sampler.sample(dit, canvas, conditioning, draw))
        for i, grid in enumerate(GRIDS):
            own = conditioning.each(lambda x, i=i: x[i : i + 1])
            alone = sampler.sample(dit, Tokens.canvas(grid, 1), own, draw.of((i,)))
            torch.testing.assert_close(made[i][None], alone.as_grid(), atol=1e-4, rtol=1e-4)


def test_the_noise_of_a_token_does_not_depend_on_packing_or_dropping() -> None:
    draw = Draw(0, "train", 0, (5, 6, 7, 8, 9))
    packed = pack(GRIDS, 20).canvas
    kept = [np.arange(0, grid.cells, 2) for grid in GRIDS]
    dropped = pack(GRIDS, 20, kept).canvas
    everything, some = draw.like(packed, width=3), draw.like(dropped, width=3)
    for i, grid in enumerate(GRIDS):
        alone = draw.of((draw.clips[i],)).like(Tokens.canvas(grid, 1), width=3)[0]
        assert torch.equal(everything[packed.clip == i + 1], alone)
        assert torch.equal(some[dropped.clip == i + 1], alone[::2])


# The whole of it


@pytest.mark.parametrize("drop", ["none", "beta"])
def test_mixed_sizes_train_and_sample(drop: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    catalog = Catalog.load()
    recipe = Recipe.of(
        {
            "data": {"type": "shapes", "sizes": [[5, 16, 16], [3, 16, 24], [1, 24, 16]], "clips": 24},
            "autoencoder": {"type": "causal_kl", "channels": 4, "stride": [2, 4, 4], "width": 8, "depth": 1},
            "patchifier": {"type": "navit", "size": [1, 1, 1], "drop": drop},
            "conditioner": {"type": "text", "width": 16, "depth": 1, "heads": 2, "length": 12},
            "denoiser": {"type": "dit", "width": 16, "depth": 1, "heads": 2},
            "objective": "flow",
            "sampler": {"type": "euler", "steps": 2, "guidance": 2.0},
            "training": {
                "batch": 8,
                "phases": [
                    {"learn": "autoencoder", "objective": "reconstruction", "steps": 1},
                    {"learn": "denoiser", "steps": 3},
                ],
            },
        }
    )
    train_recipe(recipe, catalog, tmp_path / "run", "cpu")
    model = load(tmp_path / "run", catalog=catalog)
    for frames, size in ((5, (16, 16)), (1, (24, 16)), (9, (8, 32))):
        assert model.generate("a red circle moves left", frames=frames, size=size).shape == (1, 3, frames, *size)


def test_speed_is_measured_on_the_same_tokens() -> None:
    told = measure(Work(width=16, depth=1, heads=2, batch=8, steps=1))
    assert told["padding"]["packed"] < 0.1 < told["padding"]["padded"]
    assert told["ratio"] == told["tokens_per_second"]["packed"] / told["tokens_per_second"]["padded"]


@pytest.mark.slow
def test_packing_pays() -> None:
    assert measure(Work())["ratio"] >= 1.8
