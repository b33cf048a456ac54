"""The losses of `flow` and `ddpm`."""

from __future__ import annotations

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Tokens
from mutoscope.plugins.diffusion.ddpm import Ddpm
from mutoscope.plugins.diffusion.errors import clip_means
from mutoscope.plugins.diffusion.flow import POWERS, Flow

TRAIN = Draw(0, "train", 5, tuple(range(64)))


def zeros(tokens, level, conditioning):
    return torch.zeros_like(tokens.filled())


def example(tokens, known=None) -> Example:
    return Example(tokens, Conditioning(known=known), Batch(clips=tuple(range(len(tokens)))))


def clean_tokens(clips: int = 64) -> Tokens:
    canvas = Tokens.canvas(Grid(2, 2, 2), clips)
    return canvas.with_values(TRAIN.of(range(clips)).normal("data", 8, 3))


@pytest.mark.parametrize("weight", POWERS)
def test_the_weight_says_whose_error_counts_whatever_is_predicted(weight) -> None:
    """The same guess of x0, told in three kinds, has the same loss, which is the weight times its squared error."""
    tokens = clean_tokens()
    eps, losses, x0 = TRAIN.like(tokens), {}, tokens.filled()
    guess = x0 + 0.3 * TRAIN.like(tokens, "guess")
    for predict in ("clean", "velocity", "noise"):
        objective = Flow(predict=predict, weight=weight, edge=1e-6, times="logit_normal", std=0.5)
        t = objective.drawn_times(TRAIN)[:, None, None]
        x = (1 - t) * x0 + t * eps
        field = {"clean": guess, "velocity": (x - guess) / t, "noise": (x - (1 - t) * guess) / t}[predict]
        losses[predict] = objective.loss(lambda *_, field=field: field, example(tokens), TRAIN, "learner").total  # type: ignore[arg-type]
    p, q = POWERS[weight]
    expected = (t ** (-2 * p) * (1 - t) ** (2 * q) * (guess - x0) ** 2).mean()
    for loss in losses.values():
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)


def test_edge_bounds_the_weight_only_where_it_divides() -> None:
    t = torch.tensor([0.0, 0.01, 0.5, 1.0])
    assert Flow(predict="clean", weight="halfway", edge=0.05).weights(t).tolist() == pytest.approx([20, 20, 2, 1])
    assert Flow(predict="velocity", weight="velocity").weights(t).tolist() == [1, 1, 1, 1]
    assert Flow(predict="velocity", weight="clean").weights(t).tolist() == pytest.approx([0, 1e-4, 0.25, 1])
    assert Flow(predict="noise", weight="velocity", edge=0.1).weights(t)[-1] == pytest.approx(100)


def test_times_follow_their_distribution() -> None:
    many = Draw(1, "train", 0, tuple(range(20000)))
    even = Flow().drawn_times(many)
    assert even.shape == (20000,)
    assert even.mean() == pytest.approx(0.5, abs=0.01)
    assert even.var() == pytest.approx(1 / 12, abs=0.005)
    normal = torch.logit(Flow(times="logit_normal", mean=-0.4, std=0.8).drawn_times(many).double())
    assert normal.mean() == pytest.approx(-0.4, abs=0.02)
    assert normal.std() == pytest.approx(0.8, abs=0.02)
    shifted = Flow(shift=3.0).drawn_times(many)
    torch.testing.assert_close(shifted, 3 * even / (1 + 2 * even))


def test_a_clips_draws_depend_on_its_number_alone() -> None:
    tokens, seen = clean_tokens(4), {}

    def spy(noisy, level, conditioning):
        seen["x"], seen["level"] = noisy.filled(), level
        return zeros(noisy, level, conditioning)

    for objective in (Flow(), Ddpm()):
        objective.loss(spy, example(tokens), TRAIN.of((3, 1, 4, 5)), "learner")  # type: ignore[arg-type]
        together = dict(seen)
        alone = Tokens.canvas(Grid(2, 2, 2), 1).with_values(tokens.filled()[2:3])
        objective.loss(spy, example(alone), TRAIN.of((4,)), "learner")  # type: ignore[arg-type]
        assert torch.equal(together["x"][2:3], seen["x"])
        assert torch.equal(together["level"][2:3], seen["level"])


@pytest.mark.parametrize("predict", ["noise", "clean", "velocity"])
def test_ddpm_descends_the_error_of_what_it_predicts(predict) -> None:
    tokens, objective = clean_tokens(), Ddpm(predict=predict)
    eps, x0 = TRAIN.like(tokens), tokens.filled()
    index = (TRAIN.uniform("time") * 1000).floor().long() + 1
    a = torch.from_numpy(objective.process.abar).sqrt()[index].float()[:, None, None]
    s = (1 - a**2).sqrt()
    target = {"noise": eps, "clean": x0, "velocity": a * eps - s * x0}[predict]
    loss = objective.loss(zeros, example(tokens), TRAIN, "learner").total  # type: ignore[arg-type]
    torch.testing.assert_close(loss, target.square().mean(), rtol=1e-4, atol=1e-6)
    assert index.min() >= 1
    assert index.max() <= 1000


def test_means_count_clips_alike_and_leave_out_padding_and_known_tokens(packed) -> None:
    error = torch.tensor([[1.0, 2, 3, 6, 10, 20, 999], [4.0, 5, 9, 999, 999, 999, 999]])
    assert clip_means(error, packed).tolist() == [3, 15, 6]
    where = torch.zeros_like(packed.clip, dtype=torch.bool)
    where[0, 3] = where[0, 4] = where[1, :3] = True
    known = Known(packed.filled(), where)
    assert clip_means(error, packed, known).tolist() == [2, 20, 0]


def test_packing_does_not_change_the_loss(packed) -> None:
    """A packed batch has the loss of its clips one by one."""
    objective, draw = Flow(), Draw(0, "train", 0, (0, 1, 2))
    together = objective.loss(zeros, example(packed), draw, "learner").total  # type: ignore[arg-type]
    alone = []
    for i, grid in enumerate(packed.grids):
        values = packed.filled()[packed.clip == i + 1][None]
        one = Tokens.canvas(grid, 1).with_values(values)
        alone.append(objective.loss(zeros, example(one), draw.of((i,)), "learner").total)  # type: ignore[arg-type]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("objective", [Flow(), Flow(predict="clean", weight="halfway"), Ddpm()])
def test_gradients_reach_the_learner_and_known_tokens_do_not_count(objective) -> None:
    tokens, scale = clean_tokens(8), torch.nn.Parameter(torch.ones(()))
    where = torch.zeros(8, 8, dtype=torch.bool)
    where[:, :4] = True

    def learner(noisy, level, conditioning):
        outlier = torch.where(conditioning.known.where[..., None], 1e6, 0.0)
        return scale * noisy.filled() + outlier

    losses = objective.loss(learner, example(tokens, Known(tokens.filled(), where)), TRAIN.of(range(8)), "learner")
    losses.total.backward()
    assert losses.total < 100
    assert scale.grad is not None
    assert scale.grad != 0
    assert not losses.parts["error"].requires_grad


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="cosine schedule has none"):
        Ddpm(schedule="cosine", ends=(1e-4, 0.02))
    with pytest.raises(InputError, match="variance"):
        Ddpm(steps=10)
