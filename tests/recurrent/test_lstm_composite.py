"""The composite model remakes what it read in reverse order and goes on from it. Srivastava et al. 2015."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mutoscope.core.errors import InputError
from mutoscope.core.facts import TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Tokens
from mutoscope.plugins.recurrent.likelihoods import Bernoulli
from mutoscope.plugins.recurrent.lstm_composite import LstmComposite, PeepholeCell
from mutoscope.plugins.recurrent.rollout import Rollout
from mutoscope.plugins.recurrent.sequence import Sequence

GRID = Grid(8, 1, 8)
CANVAS = Tokens.canvas(GRID, 16)
TOLD = Conditioning()


def clips(step: int = 0) -> torch.Tensor:
    """A lit cell that moves one to the right with each frame, from anywhere: B T 8, in [-1, 1]."""
    start = (Draw(0, "clips", step, tuple(range(16))).uniform("start") * 8).long()
    place = (start[:, None] + torch.arange(8)) % 8
    return nn.functional.one_hot(place, 8).float() * 2 - 1


@pytest.fixture(scope="module")
def fitted() -> tuple[LstmComposite, Sequence]:
    """Trained for a few seconds to read four frames."""
    torch.manual_seed(0)
    objective = Sequence(likelihood="bernoulli")
    learner = LstmComposite(TokenFact(1, GRID, 1), Bernoulli(), reads=4, width=48, spread=0.1)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    for step in range(150):
        values = clips(step).flatten(1)[..., None]
        example = Example(CANVAS.with_values(values), TOLD, Batch(clips=tuple(range(16))))
        losses = objective.loss(learner, example, Draw(0, "train", step, tuple(range(16))), "learner")
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    return learner.eval(), objective


def read(learner: LstmComposite, frames: torch.Tensor):
    """The state after the frames that open the clips have been read, and the first raw prediction."""
    state, frame, raw = learner.begin(CANVAS, TOLD), None, None
    for t in range(5):
        raw, state = learner(frame, state, t, TOLD)
        frame = frames[:, t][..., None]
    return raw, state


@torch.no_grad()
def test_what_was_read_is_remade_in_reverse_order(fitted):
    learner, _ = fitted
    frames = clips(999)
    _, state = read(learner, frames)
    remade = learner.recalled(state, TOLD)
    assert list(remade) == [3, 2, 1, 0], "the decoder starts with the last frame"
    made = torch.stack([torch.tanh(0.5 * raw[..., 0]) for raw in remade.values()], dim=1)
    reverse = (made - frames[:, :4].flip(1)).square().mean()
    forward = (made - frames[:, :4]).square().mean()
    assert reverse < 0.1 * forward, f"reversed error {reverse:.3f}, forward {forward:.3f}"


@torch.no_grad()
def test_the_code_carries_it_all(fitted):
    learner, _ = fitted
    frames = clips(999)
    raw, state = read(learner, frames)
    empty = state._replace(coded=tuple((torch.zeros_like(h), torch.zeros_like(c)) for h, c in state.coded), future=())
    before = frames[:, 3][..., None]
    lost, _ = learner(None, empty, 4, TOLD)
    good = Bernoulli().nll(raw, frames[:, 4][..., None]).mean()
    assert Bernoulli().nll(lost, frames[:, 4][..., None]).mean() > 3 * good
    first = learner.recalled(empty, TOLD)[3]
    kept = learner.recalled(state, TOLD)[3]
    assert Bernoulli().nll(first, before).mean() > 3 * Bernoulli().nll(kept, before).mean()
    half = state._replace(coded=tuple((h, torch.zeros_like(c)) for h, c in state.coded))
    assert not torch.allclose(learner.recalled(half, TOLD)[3], kept), "cells are passed on, not outputs alone"


@torch.no_grad()
def test_the_future_beats_the_last_frame_copied(fitted):
    learner, objective = fitted
    frames = clips(999)
    values = frames.flatten(1)[..., None]
    where = torch.arange(64) < 32
    told = Conditioning(known=Known(values, where.expand(16, -1)))
    drawn = Rollout(objective.process, temperature=0).sample(learner, CANVAS, told, Draw(0, "s", 0, tuple(range(16))))
    made = drawn.filled().view(16, 8, 8)
    assert torch.equal(made[:, :4], frames[:, :4]), "known frames stay as they are"
    copied = frames[:, 3:4].expand(-1, 4, -1)
    assert (made[:, 4:] - frames[:, 4:]).square().mean() < 0.2 * (copied - frames[:, 4:]).square().mean()


def test_cells_have_peepholes_and_the_output_gate_sees_the_new_cell():
    cell = PeepholeCell(0, 1)
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        cell.peep.copy_(torch.tensor([[0.0], [0.0], [2.0]]))
    h, c = cell(None, torch.zeros(1, 1), torch.ones(1, 1))
    assert c.item() == pytest.approx(0.5), "f = i = s(0), and nothing new"
    assert h.item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item() * torch.tanh(torch.tensor(0.5)).item())


def test_loss_is_summed_over_pixels_and_frames():
    learner = LstmComposite(TokenFact(1, GRID, 1), Bernoulli(), reads=4, width=8, spread=1e-6)
    values = clips().flatten(1)[..., None]
    example = Example(CANVAS.with_values(values), TOLD, Batch(clips=tuple(range(16))))
    losses = Sequence(likelihood="bernoulli").loss(learner, example, Draw(0, "t", 0, tuple(range(16))), "learner")
    # An undecided network pays log 2 for every pixel of four remade and four foretold frames.
    assert losses.total.item() == pytest.approx(8 * 8 * 0.6931, rel=1e-3)


def test_a_rollout_without_enough_frames_says_so():
    learner = LstmComposite(TokenFact(1, GRID, 1), Bernoulli(), reads=4, width=8)
    with pytest.raises(InputError, match="lstm_composite goes on from 4 frames"):
        Rollout(Bernoulli()).sample(learner, CANVAS, TOLD, Draw(0, "s", 0, tuple(range(16))))
