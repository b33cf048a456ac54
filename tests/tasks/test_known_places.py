"""What stays of a video as clean tokens at known places: which they are, and that nothing hidden is looked at."""

from __future__ import annotations

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.facts import TokenFact
from mutoscope.core.model import Model
from mutoscope.core.randomness import Draw
from mutoscope.core.showing import cells_that_stay, known_tokens, place_of, shown
from mutoscope.core.values import Batch, Grid, Known, Tokens
from mutoscope.plugins.conditioners.known import KnownTokens
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import Recipe

SMALL = {
    "data": {"type": "shapes", "frames": 9, "size": [8, 8], "clips": 16, "held": 8},
    "autoencoder": {"type": "causal_kl", "channels": 4, "stride": [2, 4, 4], "width": 8, "depth": 1},
    "patchifier": {"type": "spacetime", "size": [1, 1, 1]},
    "denoiser": {"type": "dit", "width": 16, "depth": 1, "heads": 2},
    "objective": "flow",
    "sampler": {"type": "euler", "steps": 2},
    "training": {"steps": 1, "batch": 4},
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(strict=True)


@pytest.fixture(scope="module")
def model(catalog: Catalog) -> Model:
    made = assemble(Recipe.of(SMALL), catalog).model
    assert isinstance(made, Model)
    return made.eval()


def frames_that_stay(frames: int, which: list[int], clips: int = 1) -> torch.Tensor:
    stays = torch.zeros(clips, frames, 8, 8, dtype=torch.bool)
    stays[:, which] = True
    return stays


@pytest.mark.parametrize(
    ("which", "place"),
    [
        ([], None),
        ([0], "first"),
        ([0, 1, 2], "first"),
        ([8], "last"),
        ([0, 8], "ends"),
        ([4], "frames"),
        ([0, 4], "frames"),
    ],
)
def test_places_of_whole_frames(which: list[int], place: str | None):
    assert place_of(frames_that_stay(9, which)) == place


def test_the_hardest_place_of_a_batch_counts():
    both = torch.cat([frames_that_stay(9, [0]), frames_that_stay(9, [0, 8])])
    assert place_of(both) == "ends"
    both[0, 4, 0, 0] = True
    assert place_of(both) == "regions"


def test_cells_are_known_where_all_of_their_pixels_stay(model: Model):
    """The first frame of a causal autoencoder is a cell by itself; two frames and four rows and columns are one after."""

    def known(which: list[int]) -> list[bool]:
        return cells_that_stay(model, frames_that_stay(9, which), Grid(5, 2, 2))[0].flatten(1).all(1).tolist()

    assert known([0]) == [True, False, False, False, False]
    assert known([0, 1]) == [True, False, False, False, False]
    assert known([0, 1, 2]) == [True, True, False, False, False]
    assert known([7, 8]) == [False, False, False, False, True]
    assert known([6, 7]) == [False] * 5
    corner = torch.ones(1, 9, 8, 8, dtype=torch.bool)
    corner[:, :, 0, 0] = False
    assert cells_that_stay(model, corner, Grid(5, 2, 2))[0, 3].tolist() == [[False, True], [True, True]]


def test_hidden_pixels_are_not_looked_at(model: Model):
    """Neither which tokens are known nor their values depend on what is to be made."""
    video, stays = torch.rand(2, 3, 9, 8, 8) * 2 - 1, frames_that_stay(9, [0, 1, 2], 2)
    stays[:, 5, :4] = True
    other = torch.where(stays[:, None], video, torch.rand_like(video))
    one, two = known_tokens(model, video, stays), known_tokens(model, other, stays)
    assert torch.equal(one.where, two.where)
    assert one.where.any()
    assert torch.equal(one.values, two.values)
    seen = model.patchifier.patchify(model.autoencoder.encode(video)).filled()
    torch.testing.assert_close(one.values[:, :8], seen[:, :8])  # what a causal autoencoder makes of the beginning


def test_hidden_pixels_take_the_nearest_frames_value():
    video = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 1, 5, 2, 1).clone()
    stays = torch.tensor([True, False, False, False, True]).view(1, 5, 1, 1).expand(1, 5, 2, 1).clone()
    assert shown(video, stays)[0, 0, :, 0, 0].tolist() == [0, 0, 0, 4, 4]
    stays[:, :, 1] = False  # a pixel that never stays has the mean colour of those that do
    assert shown(video, stays)[0, 0, :, 1, 0].tolist() == [2] * 5


def test_what_shows_no_whole_token_is_refused(model: Model):
    with pytest.raises(InputError, match="no token of causal_kl and spacetime is shown whole"):
        known_tokens(model, torch.zeros(1, 3, 9, 8, 8), frames_that_stay(9, [4]))


# The conditioner


def conditioner(grid: Grid, **places: float) -> KnownTokens:
    return KnownTokens(TokenFact(4, grid, 4), places=places)  # type: ignore[arg-type]


def masks(grid: Grid, clips: int = 400, **places: float) -> torch.Tensor:
    canvas = Tokens.canvas(grid, clips).with_values(torch.zeros(clips, grid.cells, 4))
    where = conditioner(grid, **places)(canvas, Draw(0, "test", 0, tuple(range(clips))))
    return where.view(clips, *grid)


@pytest.mark.parametrize("place", ["first", "last", "ends", "frames"])
def test_whole_frames_are_shown_and_something_is_left(place: str):
    where = masks(Grid(6, 2, 3), **{place: 1.0})
    frames = where.flatten(2)
    assert torch.equal(frames.all(2), frames.any(2))
    told = [place_of(clip[None].view(1, 6, 2, 3)) for clip in where]
    shown = frames.all(2).sum(1)
    if place == "frames":
        assert 0.35 < shown.float().mean() / 6 < 0.65
        return
    assert (shown < 6).all()
    assert set(told) <= {place, "first"}
    assert sum(t == place for t in told) > (300 if place == "ends" else 399)
    counts = shown.bincount(minlength=6)[1:6]
    assert (counts > 50).all(), f"1 to 5 frames are shown, evenly: {counts.tolist()}"


def test_regions_hide_a_box():
    hidden = ~masks(Grid(4, 5, 6), regions=1.0)
    for box in hidden:
        places = box.nonzero()
        low, high = places.min(0).values, places.max(0).values + 1
        assert len(places) == (high - low).prod()
    assert hidden.float().mean() < 0.6
    assert ~hidden.flatten(1).all(1).all()


def test_shares_are_those_asked_for():
    where = masks(Grid(5, 2, 2), clips=2000, nothing=3.0, first=1.0)
    nothing = (~where.flatten(1).any(1)).float().mean()
    assert abs(nothing - 0.75) < 4 * (0.75 * 0.25 / 2000) ** 0.5


def test_a_single_frame_shows_no_frames_and_packed_rows_no_padding():
    assert not masks(Grid(1, 3, 3), first=1.0, last=1.0, ends=1.0, frames=1.0).any()
    from mutoscope.core.packing import pack

    grids = (Grid(4, 2, 2), Grid(1, 2, 3), Grid(3, 2, 2))
    packing = pack(grids, 20)
    tokens = packing.fill([torch.ones(grid.cells, 4) for grid in grids])
    draw = Draw(0, "test", 0, (0, 1, 2))
    where = conditioner(Grid(4, 2, 2), first=1.0)(tokens, draw)
    assert not where[tokens.clip == 0].any()
    assert where[tokens.clip == 1].any()
    alone = conditioner(Grid(4, 2, 2), first=1.0)(
        Tokens.canvas(grids[0], 1).with_values(torch.ones(1, 16, 4)), draw.of((0,))
    )
    place = (tokens.clip == 1).nonzero(as_tuple=True)
    assert torch.equal(where[place], alone[0, tokens.cells()[place]]), "a clip's mask depends on its batch mates"


def test_training_draws_and_a_request_is_passed_on():
    part = conditioner(Grid(4, 2, 2), first=1.0).train()
    tokens = Tokens.canvas(Grid(4, 2, 2), 3).with_values(torch.rand(3, 16, 4))
    draw = Draw(0, "test", 0, (0, 1, 2))
    drawn = part.embed(Batch(clips=(0, 1, 2), tokens=tokens), draw).known
    assert drawn is not None
    assert torch.equal(drawn.values, tokens.filled())
    assert drawn.where.any()
    asked = Known(tokens.filled(), torch.zeros(3, 16, dtype=torch.bool))
    assert part.embed(Batch(clips=(0, 1, 2), tokens=tokens, known=asked), draw).known is asked
    assert part.eval().embed(Batch(clips=(0, 1, 2)), draw).known is None
    assert next(iter(part.facts())).places == ("first",)
    with pytest.raises(InputError, match="shows nothing at all"):
        conditioner(Grid(4, 2, 2), first=0.0)


def test_training_tells_the_network(catalog: Catalog):
    """The verb gives the conditioner the clip's own tokens, and what is known is not learned."""
    from mutoscope.core.training.distribution import join
    from mutoscope.core.training.turns import Turns

    said = {**SMALL, "autoencoder": "identity", "patchifier": {"type": "spacetime", "size": [1, 4, 4]}}
    made = assemble(Recipe.of({**said, "conditioner": {"type": "known", "places": {"first": 1.0}}}), catalog)
    model = made.model
    assert isinstance(model, Model)
    turns = Turns(model, made.plan.phases[0], join("cpu"))
    batch = made.dataset.batch("train", range(4))
    from dataclasses import replace

    assert isinstance(batch.video, torch.Tensor)
    coded = replace(batch, latents=model.autoencoder.encode(batch.video), video=None)
    example = turns._example(coded, Draw(0, "test", 0, (0, 1, 2, 3)))
    known = example.conditioning.known
    assert known is not None
    assert example.tokens is not None
    assert torch.equal(known.values, example.tokens.filled())
    assert known.where[:, :4].all()
