"""The adversarial losses against what they are by definition, and what the objective watches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.errors import InputError
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Tokens
from mutoscope.plugins.adversarial.augment import CHANGES, augmented
from mutoscope.plugins.adversarial.losses import LOSSES, split
from mutoscope.plugins.adversarial.one_step import truncated

CANVAS = Tokens.canvas(Grid(4, 8, 8), 4)
DRAW = Draw(0, "train", 0, (0, 1, 2, 3))


class Constant(OneStepDenoiser):
    """Gives the same clip whatever its noise, or `scale` times the noise."""

    name = "constant_clip"

    def __init__(self, scale: float = 0.0) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))
        self.scale = scale

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        return {"noise": draw.normal("noise", 256, 3), "category": (draw.uniform("category") * 4).long()}

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        return self.scale * noise["noise"] + self.level


class Linear(Discriminator):
    """Scores a clip by its mean times a weight."""

    name = "linear_mean"

    def __init__(self, weight: float = 3.0, categories: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.bias = torch.nn.Parameter(torch.zeros(1 + categories))
        self.categories = categories

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        return self.weight * grid.mean((1, 2, 3, 4))[:, None] + self.bias


def example(video: Tensor | None = None, label: Tensor | None = None) -> Example:
    values = DRAW.normal("data", 256, 3) if video is None else video
    return Example(CANVAS.with_values(values), Conditioning(), Batch(label=label, clips=(0, 1, 2, 3)))


def test_losses_are_their_definitions():
    real, fake = torch.randn(5, 3), torch.randn(5, 3)
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    bce = F.binary_cross_entropy_with_logits
    ns = LOSSES["non_saturating"]
    torch.testing.assert_close(ns.critic(real, fake), bce(real, one) + bce(fake, zero))
    torch.testing.assert_close(ns.generator(fake), bce(fake, one))
    torch.testing.assert_close(LOSSES["wasserstein"].critic(real, fake), fake.mean() - real.mean())
    hinge = LOSSES["hinge"].critic(torch.tensor([[2.0]]), torch.tensor([[-2.0]]))
    assert hinge == 0, "scores beyond the margin cost nothing"
    square = LOSSES["least_squares"]
    torch.testing.assert_close(square.critic(real, fake), 0.5 * (F.mse_loss(real, one) + F.mse_loss(fake, zero)))


def test_softmax_is_a_two_way_classifier():
    logits = torch.randn(6, 2, 1, 1, 1)
    critic = Linear()
    critic.outputs = 2
    score, named = split(logits, critic)
    assert named is None
    target = torch.ones(6, dtype=torch.long)
    torch.testing.assert_close(LOSSES["softmax"].generator(score), F.cross_entropy(logits.flatten(1), target))


def test_gradient_penalties_are_the_closed_form(make):
    """The gradient of the linear score is weight / values everywhere, so both penalties are known."""
    norm = 3.0 / math.sqrt(3 * 4 * 8 * 8)
    base = {"discriminators": {"one": Linear()}}
    plain = make("objective", "adversarial", **base).loss(Constant(), example(), DRAW, "discriminator").total
    r1 = make("objective", "adversarial", **base, r1=2.0)
    torch.testing.assert_close(
        r1.loss(Constant(), example(), DRAW, "discriminator").total - plain, torch.tensor(norm**2), rtol=1e-3, atol=1e-6
    )
    lazy = make("objective", "adversarial", **base, r1=2.0, r1_every=16)
    assert lazy.turns(0) == ("discriminator", "discriminator.r1", "learner")
    assert lazy.turns(1) == ("discriminator", "learner")
    torch.testing.assert_close(
        lazy.loss(Constant(), example(), DRAW, "discriminator.r1").total, torch.tensor(16 * norm**2)
    )
    gp = make("objective", "adversarial", **base, penalty=10.0)
    total = gp.loss(Constant(), example(), DRAW, "discriminator").total - plain
    torch.testing.assert_close(total, torch.tensor(10 * (norm - 1) ** 2), rtol=1e-4, atol=1e-5)


def test_collapse_is_seen_and_said(make):
    objective = make("objective", "adversarial", discriminators={"one": Linear()})
    same = objective.loss(Constant(0.0), example(), DRAW, "learner").parts
    varied = objective.loss(Constant(1.0), example(), DRAW, "learner").parts
    assert same["collapsed"] == 1 and same["spread"] == 0
    assert varied["collapsed"] == 0 and 0.8 < varied["spread"] < 1.2


def test_accuracy_counts_what_the_discriminator_gets_right(make):
    objective = make("objective", "adversarial", discriminators={"one": Linear()})
    bright = torch.full((4, 256, 3), 0.5)
    learner = Constant()
    learner.level.data.fill_(-0.5)
    parts = objective.loss(learner, example(bright), DRAW, "discriminator").parts
    assert parts["one.accuracy"] == 1
    learner.level.data.fill_(0.5)
    assert objective.loss(learner, example(bright), DRAW, "discriminator").parts["one.accuracy"] == 0.5


def test_category_teaches_both_and_information_needs_no_labels(make):
    critics = {"one": Linear(0.0, categories=4)}
    bias = critics["one"].bias
    labels = torch.tensor([1, 1, 1, 1])
    objective = make("objective", "adversarial", discriminators=critics, category=1.0)
    objective.loss(Constant(1.0), example(label=labels), DRAW, "discriminator").total.backward()
    assert bias.grad is not None
    assert bias.grad[2] < 0, "the logit of the data's class is raised"
    assert (bias.grad[[1, 3, 4]] > 0).all()
    bias.grad = None
    drawn = Constant().noise(CANVAS, DRAW)["category"]
    information = make("objective", "adversarial", discriminators=critics, information=1.0)
    information.loss(Constant(1.0), example(), DRAW, "discriminator").total.backward()
    expected = 0.25 - torch.bincount(drawn, minlength=4) / 4
    torch.testing.assert_close(bias.grad[1:], expected)
    with pytest.raises(ValueError, match="category: none of the discriminators names classes"):
        make("objective", "adversarial", discriminators={"one": Linear()}, category=1.0)


def test_several_turns_draw_different_noise(make):
    objective = make("objective", "adversarial", discriminators={"one": Linear()}, critic_steps=2)
    assert objective.turns(0) == ("discriminator", "discriminator.2", "learner")
    one, two = (objective.loss(Constant(1.0), example(), DRAW, t).parts["one.fake"] for t in objective.turns(0)[:2])
    assert one != two


def test_adaptive_augmentation_follows_overfitting(make):
    critic = Linear(10.0)
    objective = make(
        "objective", "adversarial", discriminators={"one": critic}, augment=("mirror",), adaptive=0.6, augment_most=0.5
    ).train()
    assert objective.chance == 0
    objective.loss(Constant(), example(torch.full((4, 256, 3), 0.5)), DRAW, "discriminator")
    raised = objective.chance.clone()
    assert raised > 0, "every clip of data is scored as data: more augmentation"
    objective.loss(Constant(), example(torch.full((4, 256, 3), -0.5)), DRAW, "discriminator")
    assert objective.chance < raised


@pytest.mark.parametrize("change", CHANGES)
def test_augmentation_is_the_same_for_all_frames_and_passes_gradients(change):
    still = DRAW.normal("still", 3, 1, 12, 12).expand(-1, -1, 6, -1, -1).clone().requires_grad_(True)
    made = augmented(still, (change,), 1.0, DRAW)
    torch.testing.assert_close(made, made[:, :, :1].expand_as(made), msg=f"{change} differs between frames")
    made.sum().backward()
    assert still.grad is not None and still.grad.abs().sum() > 0
    kept = augmented(still, (change,), 0.0, DRAW)
    assert torch.equal(kept, still)


def test_stretch_changes_speed_around_the_middle():
    ramp = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(64, 1, 9, 2, 2)
    made = CHANGES["stretch"](ramp, Draw(0, "a", 0, tuple(range(64))))[:, 0, :, 0, 0]
    torch.testing.assert_close(made[:, 4], torch.full((64,), 4.0))
    speed = made[:, 5] - made[:, 4]
    assert speed.min() >= 0.5 and speed.max() <= 2 and speed.std() > 0.2


def test_truncation_keeps_the_distribution_within_its_bounds():
    z = torch.randn(40000, dtype=torch.float64)
    cut = truncated(z, 1.0)
    assert cut.abs().max() <= 1
    inside = z[z.abs() <= 1]
    assert abs(cut.std() - inside.std()) < 0.01
    assert torch.equal(truncated(torch.arange(3), 1.0), torch.arange(3))


def test_fixed_noise_is_the_shared_clips(make):
    learner = make("denoiser", "mocogan", content=6, motion=4, width=4, doublings=2).eval()
    sampler = make("sampler", "one_step", fixed=("content", "start", "motion"), shared=7)
    made = sampler.sample(learner, CANVAS, Conditioning(), DRAW).filled()
    torch.testing.assert_close(made, made[:1].expand_as(made))
    alone = make("sampler", "one_step").sample(learner, Tokens.canvas(Grid(4, 8, 8), 1), Conditioning(), DRAW.of([7]))
    torch.testing.assert_close(alone.filled()[0], made[0])
    with pytest.raises(ValueError, match="fixed: mocogan starts from content, start, motion, not from style"):
        make("sampler", "one_step", fixed=("style",)).sample(learner, CANVAS, Conditioning(), DRAW)


def test_a_size_that_a_generator_was_not_built_for_is_refused(make):
    learner = make("denoiser", "vgan", code=8, width=4, doublings=2)
    canvas = Tokens.canvas(Grid(4, 8, 16), 2)
    with pytest.raises(InputError, match="vgan makes clips of one size, 4 frames of 8 x 8"):
        learner(learner.noise(canvas, DRAW.of([0, 1])), canvas, Conditioning())
