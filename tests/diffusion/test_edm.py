"""EDM: preconditioning, training noise, the sampler's order, churn, and the augmentation; VP and VE among them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Tokens
from mutoscope.plugins.diffusion.augmentation import LABEL, augmented, changes
from mutoscope.plugins.diffusion.ddpm import Ddpm
from mutoscope.plugins.diffusion.edm import Edm
from mutoscope.plugins.diffusion.edm_sampler import EdmSampler
from mutoscope.plugins.diffusion.flow import FlowProcess
from mutoscope.plugins.diffusion.karras import EdmProcess, VeProcess, VpProcess
from mutoscope.plugins.diffusion.ratios import ratio_at, time_of

NOTHING = ConditioningFact()


def f64(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_levels_are_the_published_sigmas() -> None:
    process = EdmProcess()
    sigmas = process.sigma(process.levels(18))
    assert sigmas[:4].tolist() == pytest.approx([80, 57.585985, 40.785574, 28.374585], rel=1e-7)
    assert sigmas[-3:].tolist() == pytest.approx([0.00752802, 0.002, 0], rel=1e-6)
    ve = VeProcess()
    assert ve.sigma(ve.levels(11))[:-1].log().diff().std() < 1e-12
    assert ve.sigma(ve.levels(5))[[0, 4, 5]].tolist() == pytest.approx([100, 0.02, 0])
    vp = VpProcess()
    assert vp.sigma(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist() == pytest.approx(
        [math.sqrt(math.expm1(0.5 * 19.9e-6 + 1e-4)), math.sqrt(math.expm1(0.5 * 19.9 + 0.1))]
    )


@pytest.mark.parametrize("process", [EdmProcess(), VpProcess(), VeProcess()])
def test_time_is_the_inverse_of_sigma(process) -> None:
    sigma = torch.logspace(-2, 1.9, 20, dtype=torch.float64)
    torch.testing.assert_close(process.sigma(process.time(sigma)), sigma)
    assert process.sigma(f64(0)) == 0


def test_coefficients_are_table_1() -> None:
    sd = 0.5
    for s in (0.002, 0.3, 1.0, 80.0):
        c = EdmProcess(sd).preconditioning(f64(s))
        assert float(c.skip) == pytest.approx(sd**2 / (s**2 + sd**2))
        assert float(c.out) == pytest.approx(s * sd / math.sqrt(s**2 + sd**2))
        assert float(c.into) == pytest.approx(1 / math.sqrt(s**2 + sd**2))
        assert float(c.noise) == pytest.approx(math.log(s) / 4)
        assert float(c.weight) == pytest.approx(1 / float(c.out) ** 2)
        vp, ve = VpProcess().preconditioning(f64(s)), VeProcess().preconditioning(f64(s))
        assert [float(x) for x in vp[:3]] == pytest.approx([1, -s, 1 / math.sqrt(s * s + 1)])
        assert float(vp.noise) == pytest.approx(999 * float(VpProcess().time(f64(s))))
        assert [float(x) for x in ve[:4]] == pytest.approx([1, s, 1, math.log(s / 2)])
        assert float(vp.weight) == pytest.approx(1 / s**2) == float(ve.weight)


def test_inputs_and_targets_have_unit_variance_at_every_sigma() -> None:
    """var(c_in (y + n)) = 1 and var((y - c_skip (y + n)) / c_out) = 1 for data of deviation sigma_data (app. B.6)."""
    torch.manual_seed(0)
    y, eps = 0.5 * torch.randn(200_000, dtype=torch.float64), torch.randn(200_000, dtype=torch.float64)
    for s in (0.01, 0.5, 3.0, 60.0):
        c, x = EdmProcess(0.5).preconditioning(f64(s)), y + s * eps
        assert float((c.into * x).var()) == pytest.approx(1, abs=0.01)
        assert float(((y - c.skip * x) / c.out).var()) == pytest.approx(1, abs=0.01)


class Silent(torch.nn.Module):
    """F = 0; keeps what it was told."""

    def forward(self, tokens, level, conditioning):
        self.seen = tokens.filled(), level, conditioning
        return torch.zeros_like(tokens.filled())


def example(clips: int, values: torch.Tensor) -> tuple[Example, Draw]:
    tokens = Tokens.canvas(Grid(1, 4, 4), clips).with_values(values)
    return Example(tokens, Conditioning(), Batch(clips=tuple(range(clips)))), Draw(1, "t", 0, tuple(range(clips)))


def test_the_first_loss_is_one_whatever_the_sigma(token) -> None:
    """With F = 0 the weighted loss is the variance of the target: 1 at every noise level."""
    torch.manual_seed(0)
    for mean in (-4.0, 0.0, 3.0):
        made, draw = example(3000, 0.5 * torch.randn(3000, 16, 4))
        part = Edm(token, NOTHING, mean=mean, std=0.1)
        assert float(part.loss(Silent(), made, draw, "learner").total) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("precondition", ["edm", "vp", "ve"])
def test_training_noise_is_the_papers(precondition, token) -> None:
    part, draw = Edm(token, NOTHING, precondition=precondition), Draw(1, "t", 0, tuple(range(4000)))
    levels = part.drawn_levels(draw)
    log = part.process.sigma(levels.double()).log()
    if precondition == "edm":
        assert float(log.mean()) == pytest.approx(-1.2, abs=0.06)
        assert float(log.std()) == pytest.approx(1.2, abs=0.05)
        assert float(log.exp().median()) == pytest.approx(0.3012, abs=0.02)
    elif precondition == "ve":
        assert float(log.min()) >= math.log(0.02) - 1e-4
        assert float(log.max()) <= math.log(100) + 1e-4
        assert float(log.mean()) == pytest.approx((math.log(0.02) + math.log(100)) / 2, abs=0.15)
    else:
        assert float(levels.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(levels.min()) >= 1e-5


def test_the_network_sees_scaled_values_and_clean_ones_where_known(token) -> None:
    part, (made, draw) = Edm(token, NOTHING), example(2, torch.randn(2, 16, 4))
    where = torch.zeros(2, 16, dtype=torch.bool)
    where[:, :3] = True
    told = Conditioning(known=Known(torch.full((2, 16, 4), 0.7), where))
    network = Silent()
    part.loss(network, Example(made.tokens, told, made.batch), draw, "learner")
    x, level, _ = network.seen
    assert torch.allclose(x[:, :3], torch.tensor(0.7 / 0.5))
    torch.testing.assert_close(level, part.process.sigma(part.drawn_levels(draw)).log() / 4, atol=1e-5, rtol=1e-5)


# The sampler on Gaussian data


def endpoint_error(sampler: str, steps: int) -> float:
    """Relative error of the probability flow from the largest to the smallest sigma, for data N(0, 1/4)."""
    process = EdmProcess()
    sigma = process.sigma(process.levels(steps)).tolist()[:-1]

    def slope(x: float, s: float) -> float:
        return (x - x * 0.25 / (0.25 + s * s)) / s

    x = 1.0
    exact = math.sqrt((0.25 + sigma[-1] ** 2) / (0.25 + sigma[0] ** 2))
    for now, then in pairwise(sigma):
        d = slope(x, now)
        step = x + (then - now) * d
        if sampler == "heun":
            step = x + (then - now) * 0.5 * (d + slope(step, then))
        x = step
    return abs(x / exact - 1)


@pytest.mark.parametrize(("steps", "expected"), [(18, 0.0553), (36, 0.0122), (72, 0.00288)])
def test_the_error_is_that_of_the_published_method(steps, expected, token, exact, by_time) -> None:
    """The sampler's own path, its last Euler step to zero taken back, against numbers computed elsewhere."""
    assert endpoint_error("heun", steps) == pytest.approx(expected, rel=0.01)
    process = EdmProcess()
    timed, canvas = by_time(process), Tokens.canvas(Grid(1, 1, 1), 8)
    draw = Draw(0, "s", 0, tuple(range(8)))
    seen = exact(timed, 0.5)
    made = EdmSampler(token, timed, steps=steps).sample(seen, canvas, Conditioning(), draw)
    assert len(seen.seen) == 2 * steps - 1
    last, start = seen.seen[-1].double(), seen.seen[0].double()
    ratio = float((last / start).mean()) / math.sqrt((0.25 + 0.002**2) / (0.25 + 6400))
    assert abs(ratio - 1) == pytest.approx(expected, rel=0.01)
    assert torch.isfinite(made.filled()).all()


def test_euler_is_first_order_there() -> None:
    errors = [endpoint_error("euler", n) for n in (18, 36, 72)]
    assert errors == pytest.approx([0.154, 0.0780, 0.0392], rel=0.01)


PROCESSES = {
    "edm": EdmProcess,
    "vp": VpProcess,
    "ve": VeProcess,
    "flow": FlowProcess,
    "cosine": lambda: Ddpm(schedule="cosine").process,
}


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("churn", [0.0, 30.0])
def test_samples_have_the_datas_distribution(name, churn, token, exact, by_time) -> None:
    timed, canvas = by_time(PROCESSES[name]()), Tokens.canvas(Grid(1, 8, 8), 64)
    draw = Draw(0, "sample", 0, tuple(range(64)))
    part = EdmSampler(token, timed, steps=80, churn=churn)
    made = part.sample(exact(timed, 0.5, 0.3), canvas, Conditioning(), draw).filled()
    assert float(made.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(made.std()) == pytest.approx(0.5, abs=0.02)


def test_churn_is_gated_and_bounded(token) -> None:
    process = EdmProcess()
    part = EdmSampler(token, process, steps=18, churn=400.0, churn_between=(0.05, 50.0))
    sigmas = [(ratio_at(process, t), ratio_at(process, r)) for t, r in zip(part.times()[:-1], part.raised, strict=True)]
    for sigma, raised in sigmas:
        share = math.sqrt(2) if 0.05 <= sigma <= 50 else 1.0
        assert raised / sigma == pytest.approx(share, rel=1e-6)
    small = EdmSampler(token, process, steps=18, churn=1.8)
    assert ratio_at(process, small.raised[3]) / ratio_at(process, small.times()[3]) == pytest.approx(1.1, rel=1e-6)
    assert small.raised[0] > 1  # the first step too, beyond the process's own times


@pytest.mark.parametrize("name", ["edm", "flow", "cosine"])
@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_calls_are_counted_as_made(name, churn, token, canvas, draw, exact, by_time) -> None:
    timed = by_time(PROCESSES[name]())
    part = EdmSampler(token, timed, steps=9, churn=churn, guidance=2.0, guidance_interval=(0.3, 0.8))
    network, pooled = exact(timed), torch.zeros(5, 1)
    part.sample(network, canvas, Conditioning(pooled, null=Conditioning(pooled + 1)), draw)
    assert part.calls(canvas) == network.calls


def test_ratios_are_inverted() -> None:
    for process in (EdmProcess(), VpProcess(), FlowProcess()):
        for ratio in (0.01, 0.7, 20.0):
            assert ratio_at(process, time_of(process, ratio)) == pytest.approx(ratio, rel=1e-9)
    assert time_of(Ddpm().process, 1e9) == 1.0
    assert ratio_at(EdmProcess(), time_of(EdmProcess(), 113.0)) == pytest.approx(113)


def test_sigmas_out_of_order_are_refused(token) -> None:
    with pytest.raises(ValueError, match="smallest"):
        Edm(token, NOTHING, smallest=90.0)


def test_edm_steps_are_the_independent_sources(token, exact, by_time) -> None:
    """Sigmas and Euler steps against diffusers' EDMEulerScheduler with the same preconditioned outputs."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    theirs.set_timesteps(18)
    process = EdmProcess()
    sigmas = process.sigma(process.levels(18)).float()
    torch.testing.assert_close(theirs.sigmas, sigmas, atol=1e-6, rtol=1e-5)
    torch.manual_seed(0)
    x, raw = torch.randn(2, 6, 4) * 3, torch.randn(2, 6, 4)
    canvas = Tokens.canvas(Grid(1, 2, 3), 2)

    class Fixed(torch.nn.Module):
        def forward(self, tokens, level, conditioning):
            torch.testing.assert_close(tokens.filled(), scaled, atol=1e-5, rtol=1e-5)
            return raw

    for i, t in enumerate(theirs.timesteps[:-1]):
        scaled = theirs.scale_model_input(x, t)
        expected = theirs.step(raw, t, x).prev_sample
        level = process.levels(18)[i].float().expand(2)
        said = process.predict(Fixed(), canvas.with_values(x), level, Conditioning())
        ours = said.as_clean() + float(sigmas[i + 1]) * said.as_noise()
        scale = float(expected.abs().max())
        torch.testing.assert_close(ours / scale, expected / scale, atol=1e-5, rtol=1e-5)


# Augmentation


def test_nothing_happens_at_share_zero_but_mirroring() -> None:
    tokens, draw = (
        Tokens.canvas(Grid(2, 6, 6), 40).with_values(torch.randn(40, 72, 3)),
        Draw(0, "a", 0, tuple(range(40))),
    )
    made, label = augmented(tokens, draw, 0.0)
    assert label.shape == (40, LABEL)
    assert (label[:, 1:] == 0).all()
    assert 8 < int(label[:, 0].sum()) < 32
    for i in range(40):
        grid = tokens.as_grid()[i]
        assert torch.equal(made.as_grid()[i], grid.flip(-1) if label[i, 0] else grid)


def test_a_clip_is_changed_as_its_label_says() -> None:
    """A pure shift moves a bump by as much, in every frame alike."""
    draw = Draw(0, "a", 0, tuple(range(400)))
    label, _ = changes(draw, 0.3)
    assert (label[:, 1:].abs().sum(1) > 0).float().mean() > 0.5
    pure = [i for i in range(400) if (label[i, :7] == 0).all() and 0.1 < label[i, 7:].abs().max() < 1.5]
    assert pure
    canvas = Tokens.canvas(Grid(2, 33, 33), 400)
    y, x = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    bump = torch.exp(-((y - 16) ** 2 + (x - 16) ** 2) / 8).expand(400, 1, 2, 33, 33)
    made, _ = augmented(canvas.from_grid(bump), draw, 0.3)
    i = pure[0]
    frame = made.as_grid()[i, 0, 1]
    centre = torch.tensor([float((frame * x).sum() / frame.sum()), float((frame * y).sum() / frame.sum())])
    torch.testing.assert_close(centre - 16, label[i, 7:] * 33 / 8, atol=0.3, rtol=0.1)
    torch.testing.assert_close(made.as_grid()[i, 0, 0], frame)


def test_the_network_is_told_of_the_changes(token) -> None:
    plain, told = Edm(token, NOTHING), Edm(token, NOTHING, augment=0.12)
    assert not [f for f in plain.facts() if isinstance(f, ConditioningFact)]
    assert next(f for f in told.facts() if isinstance(f, ConditioningFact)).augmented == LABEL
    made, draw = example(3, torch.randn(3, 16, 4))
    network = Silent()
    told.loss(network, made, draw, "learner")
    assert network.seen[2].augmented.shape == (3, LABEL)
    with pytest.raises(ValueError, match="augment"):
        Edm(TokenFact(width=16, grid=Grid(1, 2, 2), channels=4, patch=(1, 2, 2)), NOTHING, augment=0.1)
