"""What a world model says of the next latent, and how its autoencoder keeps its nats. Ha & Schmidhuber 2018."""

from __future__ import annotations

import math

import pytest
import torch

from mutoscope.core.facts import ClipFact, ConditioningFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Tokens
from mutoscope.plugins.recurrent.conv_vae import ConvVae
from mutoscope.plugins.recurrent.likelihoods import Bernoulli, Mixture
from mutoscope.plugins.recurrent.mixture import MixtureObjective
from mutoscope.plugins.recurrent.world_model import WorldModel

MANY = Draw(0, "sample", 0, tuple(range(4000)))


def raw_of(pi: list[float], mu: list[float], sigma: list[float], clips: int) -> torch.Tensor:
    """Raw output for one value with this mixture."""
    parts = [torch.tensor(pi).log(), torch.tensor(mu), torch.tensor(sigma).log()]
    return torch.cat(parts).expand(clips, 1, -1)


def test_density_is_the_mixtures():
    from scipy.stats import norm

    process = Mixture(2, ends=False)
    x = torch.tensor([[[0.7]]])
    expected = -math.log(0.3 * norm.pdf(0.7, -1.0, 0.5) + 0.7 * norm.pdf(0.7, 1.0, 2.0))
    raw = raw_of([0.3, 0.7], [-1.0, 1.0], [0.5, 2.0], 1)
    assert process.nll(raw, x).item() == pytest.approx(expected, rel=1e-5)


def test_temperature_raises_the_variance_and_zero_is_the_likeliest_mean():
    process = Mixture(3, ends=False)
    raw = raw_of([0.7, 0.2, 0.1], [0.0, 2.0, -3.0], [0.3, 0.5, 0.4], 4000)
    variances = [process.sample(raw, MANY, tau).var().item() for tau in (0.1, 0.5, 1.0, 1.5)]
    assert variances == sorted(variances)
    assert variances[0] * 3 < variances[1]
    assert torch.equal(process.sample(raw, MANY, 0.0), torch.zeros(4000, 1, 1))
    means, weights, sigmas = (
        torch.tensor([0.0, 2.0, -3.0]),
        torch.tensor([0.7, 0.2, 0.1]),
        torch.tensor([0.3, 0.5, 0.4]),
    )
    mean = (weights * means).sum()
    exact = (weights * (sigmas**2 + means**2)).sum() - mean**2
    assert variances[2] == pytest.approx(exact.item(), rel=0.1)


def test_noise_is_scaled_by_the_root_of_the_temperature():
    process = Mixture(1, ends=False)
    drawn = process.sample(raw_of([1.0], [0.0], [0.5], 4000), MANY, 4.0)
    assert drawn.std().item() == pytest.approx(1.0, rel=0.05)


def test_every_value_has_a_mixture_of_its_own():
    process = Mixture(5, ends=True)
    fact = TokenFact(64, Grid(4, 1, 1), 64)
    assert process.output_width(fact) == 64 * 15 + 1
    log_pi, _, _ = process.parted(torch.randn(2, 1, 961))
    assert log_pi.shape == (2, 1, 64, 5)
    assert not torch.allclose(log_pi[:, :, 0], log_pi[:, :, 1])


def test_loss_is_the_mean_density_of_a_value_and_ends_weigh_ten():
    fact = TokenFact(3, Grid(4, 1, 1), 3)
    objective = MixtureObjective(components=2, ends=True, ending=1.0)
    learner = WorldModel(fact, ConditioningFact(), objective.process, width=8, restart=True)
    torch.nn.init.zeros_(learner.say.weight)
    torch.nn.init.zeros_(learner.say.bias)
    canvas = Tokens.canvas(fact.grid, 2)
    example = Example(canvas.with_values(torch.zeros(2, 4, 3)), Conditioning(), Batch(clips=(0, 1)))
    losses = objective.loss(learner, example, Draw(0, "t", 0, (0, 1)), "learner")
    assert losses.parts["nll"].item() == pytest.approx(0.5 * math.log(2 * math.pi), rel=1e-5)
    assert losses.parts["ending"].item() == pytest.approx((3 + 10) * math.log(2) / 4, rel=1e-5)


def test_the_restart_is_told_at_the_first_frame_alone():
    fact = TokenFact(3, Grid(4, 1, 1), 3)
    learner = WorldModel(fact, ConditioningFact(), Mixture(1, False), width=8, restart=True)
    state, frame = learner.begin(Tokens.canvas(fact.grid, 2), Conditioning()), torch.zeros(2, 1, 3)
    first, later, last = (learner(frame, state, t, Conditioning())[0] for t in (0, 1, 2))
    assert not torch.allclose(first, later)
    assert torch.equal(later, last)


def test_the_vae_pays_at_least_half_a_nat_for_each_number():
    clip = ClipFact(3, 5, (16, 16))
    vae = ConvVae(clip, code=8, channels=(8, 16), kernels=(6, 6))
    video = torch.rand(3, 3, 5, 16, 16) * 2 - 1
    draw = Draw(0, "train", 0, (0, 1, 2))
    assert vae(video, draw).terms["kl"].item() == pytest.approx(5 * 0.5 * 8), "near the prior the floor holds"
    with torch.no_grad():
        vae.mean.bias.fill_(3.0)
    assert vae(video, draw).terms["kl"].item() > 5 * 8 * 4.4
    spread = vae.encode(video).spread
    assert spread is not None
    assert spread.shape == (3, 8, 5, 1, 1)
    assert spread.min() > 0


def test_bernoulli_is_a_cross_entropy():
    process = Bernoulli()
    raw, frame = torch.full((1, 2, 3), 2.0), torch.ones(1, 2, 3)
    assert process.nll(raw, frame).item() == pytest.approx(6 * math.log1p(math.exp(-2.0)), rel=1e-5)
    torch.testing.assert_close(process.sample(raw, MANY.of([0]), 0.0), 2 * torch.sigmoid(raw) - 1)
    drawn = process.sample(torch.full((4000, 1, 1), 1.0), MANY, 1.0)
    assert drawn.unique().tolist() == [-1.0, 1.0]
    assert (drawn > 0).float().mean().item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.03)
