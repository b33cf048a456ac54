"""Digits move straight, bounce, and are never in two splits."""

from __future__ import annotations

import builtins

import pytest
import torch

from mutoscope.core.checks import checks_of
from mutoscope.core.errors import DataError, InputError
from mutoscope.plugins.data.digits import Digits


def test_contract():
    for check in checks_of(Digits):
        check.run()


def test_a_digit_goes_straight_and_bounces_off_the_edges():
    data = Digits(frames=40, size=(32, 32), digits=1, side=0.5)
    video = data.batch("train", range(8)).video
    assert isinstance(video, torch.Tensor)
    assert video.shape == (8, 1, 40, 32, 32)
    bright = (video[:, 0] + 1) / 2
    mass = bright.sum((2, 3))
    torch.testing.assert_close(mass, mass[:, :1].expand_as(mass), msg="a digit is cut off or changes")
    x = (bright * torch.arange(32.0)).sum((2, 3)) / mass
    steps = x.diff(dim=1)
    inner = (steps[:, 1:] * steps[:, :-1] >= -1e-4).float().mean()
    assert inner > 0.75, "mostly it keeps its direction"
    assert ((steps > 0.3).any(1) & (steps < -0.3).any(1)).float().mean() > 0.5, "it comes back from the edges"


def test_the_brighter_of_two_shows():
    data = Digits(frames=5, size=(16, 16), digits=2)
    video = data.batch("test", range(50)).video
    assert isinstance(video, torch.Tensor)
    assert video.max() <= 1
    batch = data.batch("test", [3])
    assert batch.prompt is not None
    assert batch.label is not None
    assert f"digits {batch.label.item()} and" in batch.prompt[0]


def test_no_handwriting_is_in_two_splits():
    data = Digits(frames=1, size=(8, 8), digits=1, side=1.0, clips=600, held=200)
    shown = {split: data.batch(split, range(200)).video for split in data.splits()}
    flat = {split: {tuple(v.flatten().tolist()) for v in video} for split, video in shown.items()}
    assert not flat["train"] & flat["test"]
    assert not flat["train"] & flat["validation"]


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install \"mutoscope\[digits\]\""):
        Digits(frames=2).batch("train", [0])


def test_a_split_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="no such split"):
        Digits().length("valid")
