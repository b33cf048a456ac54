"""What a stage of a cascade is shown in training."""

from __future__ import annotations

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.training.views import kept_frames, seen_by, shown
from mutoscope.plugins.data.noise import Noise


def test_a_stage_sees_its_size_and_the_target_of_the_stage_before():
    data = Noise(frames=8, size=(16, 16), actions=3, clips=4)
    views = {"low": (4, (4, 8)), "high": (8, (16, 16))}
    low = seen_by(data, "low", ["low", "high"], views).batch("train", [0, 1])
    high = seen_by(data, "high", ["low", "high"], views).batch("train", [0, 1])
    whole = data.batch("train", [0, 1])
    assert low.earlier is None
    assert isinstance(low.video, torch.Tensor)
    assert low.video.shape == (2, 3, 4, 4, 8)
    assert torch.equal(high.earlier, low.video)
    assert torch.equal(high.video, whole.video)
    assert torch.equal(low.actions, whole.actions[:, ::2])
    torch.testing.assert_close(low.video[0, :, 1, 0, 0], whole.video[0, :, 2, :4, :2].mean((1, 2)))


def test_a_model_of_one_stage_sees_the_data_itself():
    data = Noise(frames=8, clips=4)
    assert seen_by(data, "", [""], {"": (8, (32, 32))}) is data


def test_frames_are_kept_evenly_and_never_invented():
    assert kept_frames(9, 3) == [0, 3, 6]
    assert shown(torch.zeros(1, 3, 5, 8, 8), (5, (8, 8))).shape == (1, 3, 5, 8, 8)
    with pytest.raises(InputError, match="clips of 4 frames"):
        kept_frames(4, 5)
