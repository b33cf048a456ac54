"""Clips cut to their centre square."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from mutoscope.core.metric import Material
from mutoscope.plugins.world.dataset import Shapes
from mutoscope.plugins.world.drawing import draw
from mutoscope.plugins.world.metrics.framing import Framing, _inside


@pytest.mark.parametrize(("size", "side"), [((16, 24), 16), ((24, 16), 16), ((16, 16), 16)])
def test_the_middle_is_shown_and_words_stay(size: tuple[int, int], side: int) -> None:
    whole, cut = Shapes(size=size), Shapes(size=size, cut="square")
    a, b = whole.batch("test", range(6)), cut.batch("test", range(6))
    assert isinstance(a.video, torch.Tensor)
    assert isinstance(b.video, torch.Tensor)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    assert torch.equal(b.video, a.video[..., top : top + side, left : left + side])
    assert a.prompt == b.prompt
    assert cut.clip_fact.size == (side, side)
    assert whole.fingerprint() != cut.fingerprint()


@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_a_cut_scene_drawn_anew_is_the_cut_clip(size: tuple[int, int]) -> None:
    data = Shapes(size=size, cut="square", laws=("bounce",), events=("occlude", "none"))
    batch = data.batch("test", range(12))
    assert isinstance(batch.video, torch.Tensor)
    assert batch.state is not None
    pixels = ((batch.video + 1) * 127.5).permute(0, 2, 3, 4, 1).numpy()
    again = draw(list(batch.state)).astype(np.float32)
    # Exact where the square keeps the height; a tall clip's pixels are drawn with other lines.
    assert np.abs(again - pixels).max() <= (1 if size[0] == 16 else 40)
    assert np.abs(again - pixels).mean() < 0.5


def test_mixed_sizes_become_squares_and_many_things_leave_the_frame() -> None:
    sizes = ((9, 16, 16), (5, 16, 24), (1, 24, 16))
    data = Shapes(sizes=sizes, cut="square")
    batch = data.batch("train", range(60))
    assert {tuple(video.shape[1:]) for video in batch.video or ()} == {(9, 16, 16), (5, 16, 16), (1, 16, 16)}
    assert data.sizes("train", range(60)) == [tuple(video.shape[1:]) for video in batch.video or ()]
    assert _cut_off("none") == 0.0
    assert 0.25 < _cut_off("square") < 0.6


def _cut_off(cut: Literal["none", "square"]) -> float:
    """Share of wide clips whose disc is not wholly in view in some frame."""
    scenes = Shapes(size=(16, 24), cut=cut).batch("test", range(200)).state
    assert scenes is not None
    return float(np.mean([not _inside(s.things[0].positions, s.things[0].radius, s).all() for s in scenes]))


def test_framing_is_asked_of_what_the_square_shows() -> None:
    """Real cut clips are framed as they should be: the truth is what can be seen."""
    batch = Shapes(size=(16, 24), cut="square").batch("test", range(60))
    assert isinstance(batch.video, torch.Tensor)
    scores = list(Framing().score(Material(batch.video, batch, batch.video, "test")))
    assert scores[0].clips is not None
    assert scores[0].clips.mean() > 0.9
