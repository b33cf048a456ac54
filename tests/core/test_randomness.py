"""Every random number is a function of (seed, purpose, step, clip): the same again, and independent otherwise."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from mutoscope.core.dataset import Order, order
from mutoscope.core.randomness import Draw, key
from mutoscope.core.values import Grid, Tokens


def draw(clips=(0, 1, 2), **more) -> Draw:
    return Draw(**{"seed": 0, "purpose": "train", "step": 0, **more}, clips=tuple(clips))


def test_a_key_is_the_same_on_every_machine():
    """Stored numbers: were the hash another one, no run could be resumed by a new version."""
    assert key("a") == int.from_bytes(__import__("hashlib").blake2b(b"a", digest_size=8).digest(), "little") >> 1
    assert 0 <= key("train", 3, "noise") < 1 << 63
    assert key("ab", "c") != key("a", "bc")
    said = "from mutoscope.core.randomness import key; print(key('x', 1, 2.5))"
    other = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True,
                           env={"PYTHONHASHSEED": "7", "PATH": "/usr/bin"})  # fmt: skip
    assert int(other.stdout) == key("x", 1, 2.5)


def test_the_same_address_gives_the_same_numbers_whatever_came_between():
    first = draw().normal("noise", 5, 3)
    torch.manual_seed(9)
    draw().normal("other", 7)
    assert torch.equal(draw().normal("noise", 5, 3), first)


@pytest.mark.parametrize("change", [{"seed": 1}, {"purpose": "sample"}, {"step": 1}])
def test_another_address_gives_other_numbers(change: dict):
    assert not torch.isclose(draw().normal("noise", 64), draw(**change).normal("noise", 64)).any()
    assert not torch.isclose(draw().normal("noise", 64), draw().normal("time", 64)).any()
    assert not torch.isclose(draw().normal("noise", 64), draw().at(0).normal("noise", 64)).any()


def test_a_clip_does_not_know_its_batch_mates():
    together = draw(range(6)).normal("noise", 4, 4)
    for i in range(6):
        assert torch.equal(draw([i]).normal("noise", 4, 4)[0], together[i])
    assert torch.equal(draw([5, 2]).uniform("u", 3), draw(range(6)).uniform("u", 3)[[5, 2]])


def test_numbers_are_normal_and_uniform():
    """Kolmogorov and Smirnov, on 200,000 numbers; moments within five standard errors."""
    normal = draw(range(200)).normal("noise", 1000).double().flatten().numpy()
    n = len(normal)
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert abs(normal.mean()) < 5 / math.sqrt(n)
    assert abs(normal.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((normal**4).mean() - 3) < 5 * math.sqrt(96 / n)
    uniform = draw(range(200)).uniform("u", 1000).double().flatten().numpy()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert np.isfinite(normal).all()


def test_clips_steps_and_neighbours_are_uncorrelated():
    """Correlations of 20,000 pairs stay within five standard errors."""
    a = draw([0]).normal("noise", 20000)[0]
    for other in (draw([1]).normal("noise", 20000)[0], draw([0], step=1).normal("noise", 20000)[0], a.roll(1)):
        assert abs(float(torch.corrcoef(torch.stack([a, other]))[0, 1])) < 5 / math.sqrt(20000)


def test_noise_of_packed_tokens_is_that_of_the_clip_alone():
    alone = [Tokens.canvas(Grid(2, 2, 2), 1), Tokens.canvas(Grid(1, 2, 3), 1)]
    values = [draw([i]).like(tokens, width=4)[0] for i, tokens in enumerate(alone)]
    packed = Tokens(
        None,
        torch.cat([alone[0].positions, alone[1].positions, torch.zeros(1, 2, 3)], 1),
        torch.tensor([[1] * 8 + [2] * 6 + [0] * 2]),
        (Grid(2, 2, 2), Grid(1, 2, 3)),
        torch.tensor([[1, 2]]),
    )
    noise = draw([0, 1]).like(packed, width=4)
    assert torch.equal(noise[0, :8], values[0])
    assert torch.equal(noise[0, 8:14], values[1])
    assert not noise[0, 14:].any()


def test_dropout_is_forked_and_gives_back():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    with draw().forked():
        first = torch.rand(4)
    assert torch.equal(torch.random.get_rng_state(), before)
    with draw().forked():
        assert torch.equal(torch.rand(4), first)
    with draw(step=1).forked():
        assert not torch.equal(torch.rand(4), first)


def test_numpy_generators_are_per_clip():
    assert draw().numpy("cut", 3).random() == draw().numpy("cut", 3).random()
    assert draw().numpy("cut", 3).random() != draw().numpy("cut", 4).random()


# The order of clips


def test_an_epoch_is_every_clip_once_in_an_order_of_its_own():
    orders = [order(0, epoch, 50) for epoch in range(3)]
    for one in orders:
        assert sorted(one) == list(range(50))
    assert len({tuple(one) for one in orders}) == 3
    assert not np.array_equal(order(0, 0, 50), order(1, 0, 50))
    assert np.array_equal(order(0, 2, 50), orders[2])


def test_positions_run_on_over_epochs():
    sequence = Order(0, 7)
    whole = sequence.at(0, 30)
    assert [epoch for epoch, _ in whole] == [p // 7 for p in range(30)]
    for start in (0, 6, 7, 13, 20):
        assert Order(0, 7).at(start, 10 if start < 20 else 9) == whole[start : start + (10 if start < 20 else 9)]
    assert sequence.at(3, 4) == whole[3:7], "an earlier position can be asked for again"
