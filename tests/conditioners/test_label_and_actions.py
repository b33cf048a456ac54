"""The label and action conditioners."""

from __future__ import annotations

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Grid
from mutoscope.plugins.conditioners.actions import Actions
from mutoscope.plugins.conditioners.label import Label

CLIP = ClipFact(channels=3, frames=9, size=(16, 16), classes=10, actions=5)
DRAW = Draw(0, "test", 0, (0, 1, 2))


def latent(causal: bool, stride: int = 4) -> LatentFact:
    return LatentFact(channels=4, stride=(stride, 4, 4), grid=Grid(3, 4, 4), causal=causal)


def test_labels_have_a_row_each_and_one_for_none() -> None:
    part = Label(CLIP, width=6)
    assert sum(p.numel() for p in part.parameters()) == 11 * 6
    told = part.embed(Batch(label=torch.tensor([0, 9, 3]), clips=(0, 1, 2)), DRAW)
    assert told.null is not None
    assert torch.equal(told.pooled, part.table.weight[[0, 9, 3]])  # type: ignore[arg-type]
    assert torch.equal(told.null.pooled, part.table.weight[[10, 10, 10]])  # type: ignore[arg-type]
    assert Label(CLIP, dropout=0.0).embed(Batch(clips=(0,)), DRAW.of((0,))).null is None


def test_labels_and_actions_that_are_not_given_are_drawn() -> None:
    many = Draw(0, "test", 0, tuple(range(4000)))
    part = Label(CLIP, width=1)
    with torch.no_grad():
        part.table.weight.copy_(torch.arange(11.0)[:, None])
    drawn = part.embed(Batch(clips=many.clips), many).pooled
    counts = torch.bincount(drawn.flatten().long(), minlength=10)  # type: ignore[union-attr]
    assert counts.shape == (10,)
    assert counts.min() > 300
    frames = Actions(CLIP, latent(True), width=4).embed(Batch(clips=(0, 1, 2)), DRAW)
    assert frames.per_frame is not None
    assert frames.per_frame.shape == (3, 3, 4)


def test_an_unknown_label_or_action_is_refused() -> None:
    with pytest.raises(InputError, match=r"label: is no class; got 10; allowed: 0 to 9"):
        Label(CLIP).eval().embed(Batch(label=torch.tensor([10]), clips=(0,)), DRAW.of((0,)))
    with pytest.raises(InputError, match="0 to 4"):
        Actions(CLIP, latent(True)).eval().embed(Batch(actions=torch.tensor([[0, 5]]), clips=(0,)), DRAW.of((0,)))


@pytest.mark.parametrize("causal", [True, False])
def test_an_action_reaches_the_latent_frame_that_codes_it(causal) -> None:
    part = Actions(CLIP, latent(causal), width=4)
    frames = 9 if causal else 8
    still = torch.zeros(1, frames, dtype=torch.long)
    base = part(still)
    assert base.shape == (1, 3 if causal else 2, 4)
    for t in range(frames):
        moved = still.clone()
        moved[0, t] = 1
        changed = (part(moved) - base).abs().sum(-1)[0].nonzero().flatten().tolist()
        assert changed == [(t + 3) // 4 if causal else t // 4]


def test_the_null_has_no_action_anywhere() -> None:
    part = Actions(CLIP, latent(False, 1), width=4)
    told = part.embed(Batch(actions=torch.zeros(2, 6, dtype=torch.long), clips=(0, 1)), DRAW.of((0, 1)))
    assert told.null is not None
    assert torch.equal(told.null.per_frame, part(torch.full((2, 6), 5)))  # type: ignore[arg-type]
