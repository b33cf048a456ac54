"""The values that travel between parts: grids, packed rows, conditioning, predictions."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mutoscope.core.values import Conditioning, Grid, Known, Latents, Prediction, Tokens


def packed() -> Tokens:
    """Two rows: clips 1 (1 x 1 x 2) and 2 (1 x 2 x 2) in the first, clip 3 (2 x 1 x 2) and padding in the second."""
    grids = (Grid(1, 1, 2), Grid(1, 2, 2), Grid(2, 1, 2))
    cells = [Tokens.canvas(grid, 1).positions[0] for grid in grids]
    positions = torch.stack([torch.cat(cells[:2]), torch.cat([cells[2], torch.zeros(2, 3)])])
    clip = torch.tensor([[1, 1, 2, 2, 2, 2], [3, 3, 3, 3, 0, 0]])
    return Tokens(torch.arange(12.0).reshape(2, 6, 1), positions, clip, grids, torch.tensor([[1, 2], [3, 0]]))


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed().values = None  # type: ignore[misc]


def test_latents_know_their_grids():
    even = Latents(torch.zeros(2, 4, 3, 5, 6))
    assert even.grids() == (Grid(3, 5, 6), Grid(3, 5, 6))
    assert not even.mixed
    mixed = Latents((torch.zeros(4, 3, 5, 6), torch.zeros(4, 1, 2, 2)))
    assert mixed.mixed
    assert mixed.grids() == (Grid(3, 5, 6), Grid(1, 2, 2))
    assert Latents(torch.zeros(2, 3, 5, 6, dtype=torch.int64), ids=True).grids()[0].cells == 90


def test_a_canvas_is_time_major():
    canvas = Tokens.canvas(Grid(2, 2, 3), 2)
    assert canvas.regular
    assert len(canvas) == 2
    assert canvas.positions[0].tolist() == [[t, y, x] for t in range(2) for y in range(2) for x in range(3)]
    assert canvas.clip[:, 0].tolist() == [1, 2]
    assert canvas.attention_mask() is None
    with pytest.raises(ValueError, match="canvas"):
        canvas.filled()


@pytest.mark.parametrize("shape", [(2, 5, 2, 2, 3), (2, 2, 2, 3)], ids=["values", "ids"])
def test_grids_and_tokens_are_inverses(shape: tuple[int, ...]):
    grid = torch.arange(torch.Size(shape).numel()).reshape(shape)
    tokens = Tokens.canvas(Grid(2, 2, 3), 2).from_grid(grid)
    assert torch.equal(tokens.as_grid(), grid)
    assert tokens.filled()[0, 4].flatten()[0] == grid[(0, 0, 0, 1, 1) if grid.ndim == 5 else (0, 0, 1, 1)]


def test_packed_rows_are_not_regular():
    tokens = packed()
    assert not tokens.regular
    with pytest.raises(ValueError, match="no common grid"):
        tokens.as_grid()
    assert tokens.row_members().tolist() == [[1, 2], [3, 0]]


def test_entries_per_clip_are_spread_over_tokens_and_rows():
    per_clip = torch.tensor([10.0, 20.0, 30.0])
    assert packed().per_token(per_clip).tolist() == [[10, 10, 20, 20, 20, 20], [30, 30, 30, 30, 10, 10]]
    assert packed().per_row(per_clip).tolist() == [[10, 20], [30, 10]]
    assert Tokens.canvas(Grid(1, 1, 2), 3).per_token(per_clip).tolist() == [[10], [20], [30]]


def test_cells_are_places_in_the_own_grid():
    assert packed().cells().tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 0, 0]]


def test_attention_stays_within_a_clip():
    mask = packed().attention_mask()
    assert mask is not None
    clip = packed().clip
    for row in range(2):
        for i in range(6):
            for j in range(6):
                assert bool(mask[row, 0, i, j]) == (clip[row, i] == clip[row, j])
    assert mask.any(-1).all(), "no row of the softmax is empty"


# Conditioning


def told(offset: float = 0.0) -> Conditioning:
    null = Conditioning(pooled=torch.full((3, 2), -1.0), sequence=torch.full((3, 4, 2), -1.0),
                        mask=torch.zeros(3, 4, dtype=torch.bool))  # fmt: skip
    return Conditioning(pooled=torch.arange(6.0).reshape(3, 2) + offset, sequence=torch.ones(3, 4, 2),
                        mask=torch.ones(3, 4, dtype=torch.bool), null=null)  # fmt: skip


def test_what_is_not_kept_is_the_null():
    kept = told().keep(torch.tensor([True, False, True]))
    assert kept.pooled is not None and kept.mask is not None
    assert kept.pooled.tolist() == [[0, 1], [-1, -1], [4, 5]]
    assert kept.mask[:, 0].tolist() == [True, False, True]
    alone = Conditioning(pooled=torch.ones(3, 2))
    assert alone.keep(torch.zeros(3, dtype=torch.bool)) is alone


def test_conditioners_are_merged_side_by_side():
    merged = told().merge(told(100.0))
    assert merged.pooled is not None and merged.sequence is not None and merged.null is not None
    assert merged.pooled.shape == (3, 4)
    assert merged.pooled[0].tolist() == [0, 1, 100, 101]
    assert merged.sequence.shape == (3, 8, 2)
    assert merged.null.pooled is not None and merged.null.pooled.shape == (3, 4)
    assert told().merge(Conditioning()).pooled is not None
    single = Conditioning(per_frame=torch.zeros(3, 5, 2)).merge(told())
    assert single.per_frame is not None and single.pooled is not None
    assert single.null is not None and single.null.per_frame is not None, "what has no null of its own stays"


def test_clips_are_repeated_with_their_null():
    twice = told().repeat(2)
    assert twice.pooled is not None and twice.null is not None and twice.null.pooled is not None
    assert twice.pooled[:, 0].tolist() == [0, 0, 2, 2, 4, 4]
    assert twice.null.pooled.shape == (6, 2)


def test_each_reaches_every_tensor():
    value = dataclasses.replace(told(), known=Known(torch.ones(3, 4, 2), torch.ones(3, 4, dtype=torch.bool)))
    seen: list[torch.Size] = []
    value.each(lambda x: seen.append(x.shape) or x)
    assert len(seen) == 8


# Predictions


@pytest.mark.parametrize("kind", ["noise", "clean", "velocity", "flow"])
@pytest.mark.parametrize("schedule", ["variance preserving", "straight"])
def test_every_parameterisation_says_the_same(kind: str, schedule: str):
    """From x0 and eps that are known: each conversion gives them back (float64)."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)[:, None, None]
    a, s = (torch.cos(t), torch.sin(t)) if schedule == "variance preserving" else (1 - t, t)
    fields = {"noise": eps, "clean": x0, "velocity": a * eps - s * x0, "flow": eps - x0}
    said = Prediction(fields[kind], kind, a * x0 + s * eps, a, s)  # type: ignore[arg-type]
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(said.as_clean(), x0, **close)
    torch.testing.assert_close(said.as_noise(), eps, **close)
    torch.testing.assert_close(said.as_velocity(), a * eps - s * x0, **close)
    torch.testing.assert_close(said.as_flow(), eps - x0, **close)
    torch.testing.assert_close(said.as_score(), -eps / s, **close)
    for other, field in fields.items():
        torch.testing.assert_close(said.as_kind(other), field, **close)  # type: ignore[arg-type]


def test_the_score_is_the_gradient_of_the_log_density():
    """Of x given x0: a normal of mean a x0 and deviation s, by autograd."""
    x0, eps = torch.randn(2, 1, 4, 3, dtype=torch.float64)
    a, s = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    x = (a * x0 + s * eps).requires_grad_()
    torch.distributions.Normal(a * x0, s).log_prob(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(Prediction(eps, "noise", x.detach(), a, s).as_score(), x.grad)
