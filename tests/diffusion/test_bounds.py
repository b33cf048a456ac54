"""The variational bound: Gaussian data in bits per value, bits by enumeration, learned variances, importance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mutoscope.core.facts import TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Prediction, Tokens
from mutoscope.plugins.diffusion.ancestral import Ancestral, ancestral_step, step_variance
from mutoscope.plugins.diffusion.binomial import Binomial
from mutoscope.plugins.diffusion.bound import gaussian_kl, gaussian_nll, pixel_nll
from mutoscope.plugins.diffusion.chains import BinomialChain, GaussianChain
from mutoscope.plugins.diffusion.ddpm import DdpmProcess, betas
from mutoscope.plugins.diffusion.improved_ddpm import KEPT, Chain, ImprovedDdpm
from mutoscope.plugins.diffusion.stepping import posterior
from mutoscope.plugins.diffusion.variational import Variational


def f64(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


# Gaussian data under the linear chain of a thousand steps: expectations in closed form


def bits_of_gaussian(spread: float, variance: str) -> float:
    """The bound for data N(0, spread^2), with the exact mean of each step back and the variance asked for."""
    beta = betas("linear", 1000)
    abar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    table, total = Chain(beta).table, 0.0
    v = spread**2
    for t in range(1000, 0, -1):
        a2, s2 = abar[t], 1 - abar[t]
        of_clean, _, high, low = (float(row[t]) for row in table)
        # Given x_t, the data has this variance left; the exact step back has the posterior's and what it makes of it.
        left = v * s2 / (a2 * v + s2)
        own = math.exp(low) if t > 1 else 0.0
        exact = own + of_clean**2 * left
        fixed_large = high if t > 1 else low
        log_variance = {"exact": math.log(exact), "large": fixed_large, "small": low}[variance]
        # The exact mean errs by of_clean times the data's error, of mean square `left`.
        gap = f64(of_clean * math.sqrt(left))
        if t == 1:
            total += float(gaussian_nll(gap, f64(0.0), f64(log_variance)))
        else:
            total += float(gaussian_kl(gap, f64(low), f64(0.0), f64(log_variance)))
    a2, s2 = abar[-1], 1 - abar[-1]
    total += 0.5 * (s2 - 1 - math.log(s2) + a2 * v)
    return total / math.log(2)


@pytest.mark.parametrize(
    ("spread", "variance", "expected"),
    [
        (1.0, "exact", 2.047096),
        (0.5, "exact", 1.047096),
        (1.0, "large", 2.211134),
        (1.0, "small", 2.881831),
    ],
)
def test_the_bound_of_gaussian_data_is_the_known_one(spread, variance, expected) -> None:
    """With the exact reverse step it is the differential entropy; both fixed variances miss it."""
    assert bits_of_gaussian(spread, variance) == pytest.approx(expected, abs=2e-6)
    if variance == "exact":
        assert expected == pytest.approx(math.log2(spread * math.sqrt(2 * math.pi * math.e)), abs=2e-5)


@pytest.mark.parametrize(("spread", "lowest", "highest"), [(1.0, 1.0, 1.0), (0.5, 0.25, 0.9995)])
def test_a_learned_share_reaches_the_entropy(spread, lowest, highest) -> None:
    """The exact variance as a share of the way from beta~ to beta."""
    beta = betas("linear", 1000)
    abar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    shares = []
    for t in range(2, 1001):
        q = posterior(*((math.sqrt(abar[i]), math.sqrt(1 - abar[i])) for i in (t, t - 1)))
        left = spread**2 * (1 - abar[t]) / (abar[t] * spread**2 + 1 - abar[t])
        exact = q.variance + q.of_clean**2 * left
        shares.append(math.log(exact / q.variance) / math.log(q.forward / q.variance))
    assert min(shares) == pytest.approx(lowest, abs=2e-3)
    assert max(shares) == pytest.approx(highest, abs=2e-4)


def test_terms_of_the_bound_are_those_of_torch() -> None:
    torch.manual_seed(0)
    mean, other, log, other_log = (torch.randn(50, dtype=torch.float64) for _ in range(4))
    p = torch.distributions.Normal(mean, (0.5 * log).exp())
    q = torch.distributions.Normal(other, (0.5 * other_log).exp())
    torch.testing.assert_close(gaussian_kl(mean, log, other, other_log), torch.distributions.kl_divergence(p, q))
    torch.testing.assert_close(gaussian_nll(other, mean, log), -p.log_prob(other))


def test_pixel_probabilities_sum_to_one() -> None:
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean in (-1.2, 0.0, 0.31, 1.0):
        for spread in (0.02, 0.3, 2.0):
            nats = pixel_nll(values, f64(mean), f64(2 * math.log(spread)))
            assert float(torch.exp(-nats).sum()) == pytest.approx(1, abs=1e-9)


# Improved DDPM


class Says(torch.nn.Module):
    """Gives fixed raw values with a gradient."""

    def __init__(self, raw: torch.Tensor) -> None:
        super().__init__()
        self.raw = torch.nn.Parameter(raw)

    def forward(self, tokens, level, conditioning):
        self.level = level
        return self.raw


def example(clips: int) -> tuple[Example, Draw]:
    torch.manual_seed(0)
    grid = Grid(1, 2, 3)
    tokens = Tokens.canvas(grid, clips).with_values(torch.rand(clips, grid.cells, 4) * 2 - 1)
    return Example(tokens, Conditioning(), Batch(clips=tuple(range(clips)))), Draw(1, "t", 3, tuple(range(clips)))


def test_v_of_one_and_minus_one_are_beta_and_beta_tilde() -> None:
    part = ImprovedDdpm(steps=100, schedule="linear")
    (given, _), level = example(1), torch.tensor([0.4])
    assert given.tokens is not None
    for v, name in ((1.0, "forward"), (-1.0, "variance")):
        raw = torch.cat([torch.zeros(1, 6, 4), torch.full((1, 6, 4), v)], dim=-1)
        said = part.process.prediction(raw, given.tokens, level)
        now, then = (tuple(float(c) for c in part.process.coefficients(f64(t))) for t in (0.4, 0.39))
        expected = getattr(posterior(now, then), name)
        torch.testing.assert_close(step_variance(said, now, then, "small"), torch.full((1, 6, 4), expected))
        # On a shorter chain v means the variances of its longer steps.
        far = tuple(float(c) for c in part.process.coefficients(f64(0.2)))
        expected = getattr(posterior(now, far), name)
        torch.testing.assert_close(step_variance(said, now, far, "large"), torch.full((1, 6, 4), expected))


def test_learned_variances_are_the_independent_sources() -> None:
    """A whole step with a learned range, against diffusers' DDPMScheduler."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(1000, variance_type="learned_range", clip_sample=False)
    theirs.betas = torch.from_numpy(betas("linear", 1000))
    theirs.alphas = 1 - theirs.betas
    theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    theirs.one = torch.ones((), dtype=torch.float64)
    process = ImprovedDdpm(schedule="linear").process
    for t in (1, 10, 500, 990):
        torch.manual_seed(t)
        x, raw = torch.randn(2, 8, 3, 4), torch.randn(2, 8, 3, 4)
        x = x[:, :4]
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        expected = theirs.step(raw, t, x, generator=torch.Generator().manual_seed(t)).prev_sample
        canvas = Tokens.canvas(Grid(1, 3, 4), 2)
        flat = raw.flatten(2).transpose(1, 2)
        said = process.prediction(flat, canvas.from_grid(x[:, :, None]), torch.full((2,), (t + 1) / 1000))
        levels = torch.tensor([t + 1, t], dtype=torch.float64) / 1000
        (a, a_then), (s, s_then) = (c.tolist() for c in process.coefficients(levels))
        made = ancestral_step(said, (a, s), (a_then, s_then), "small", 0.0, z.flatten(2).transpose(1, 2))
        ours = made.transpose(1, 2).unflatten(2, (3, 4))
        scale = float(expected.abs().max())
        torch.testing.assert_close(ours / scale, expected / scale, atol=2e-5, rtol=1e-5)


def test_the_hybrid_bound_moves_the_variance_alone() -> None:
    given, draw = example(8)
    learner = Says(torch.randn(8, 6, 8) * 0.1)
    part = ImprovedDdpm(steps=50)
    simple = ImprovedDdpm(steps=50, descend="simple")
    whole = torch.autograd.grad(part.loss(learner, given, draw, "learner").total, learner.raw)[0]
    plain = torch.autograd.grad(simple.loss(learner, given, draw, "learner").total, learner.raw)[0]
    torch.testing.assert_close(whole[..., :4], plain[..., :4])
    assert (plain[..., 4:] == 0).all()
    assert (whole[..., 4:] != 0).any()
    bound = ImprovedDdpm(steps=50, descend="bound")
    free = torch.autograd.grad(bound.loss(learner, given, draw, "learner").total, learner.raw)[0]
    assert (free[..., :4] != 0).any()


def test_the_hybrid_loss_is_the_sum_of_its_parts() -> None:
    """error + .001 T L_t, as one drawn term stands for all T."""
    given, draw = example(8)
    learner = Says(torch.randn(8, 6, 8) * 0.1)
    loss = ImprovedDdpm(steps=50).loss(learner, given, draw, "learner")
    assert loss.total.item() == pytest.approx(float(loss.parts["error"] + 0.001 * loss.parts["bits"]), rel=1e-5)


def test_the_mean_term_is_its_weight_times_the_noises_error() -> None:
    """beta^2 / (2 sigma^2 alpha (1 - abar)), Ho et al. 2020, eq. 12."""
    steps, t = 100, 37
    part = ImprovedDdpm(steps=steps, schedule="linear")
    given, _ = example(1)
    assert given.tokens is not None
    eps = torch.randn(1, 6, 4, dtype=torch.float64).float()
    noisy = part.process.noised(given.tokens, eps, torch.tensor([t / steps]))
    raw = torch.cat([eps + 0.1, torch.full_like(eps, -1.0)], dim=-1)
    said = part.process.prediction(raw, noisy, torch.tensor([t / steps]))
    beta = betas("linear", steps)
    abar = np.cumprod(1 - beta)
    tilde = beta[t - 1] * (1 - abar[t - 2]) / (1 - abar[t - 1])
    weight = beta[t - 1] ** 2 / (2 * tilde * (1 - beta[t - 1]) * (1 - abar[t - 1]))
    bits = part.term(said, given.tokens, torch.tensor([t]))
    assert float(bits) == pytest.approx(weight * 0.01 / math.log(2), rel=1e-3)


def test_the_network_is_told_steps_in_thousandths() -> None:
    process = ImprovedDdpm(steps=4000).process
    assert process.coordinate(torch.tensor([1 / 4000, 1.0])).tolist() == pytest.approx([0, 999.75])


def test_importance_weights_are_unbiased() -> None:
    """sum_t p_t w_t L_t is the mean of L_t, and p_t follows the root mean square of the last losses."""
    part = ImprovedDdpm(steps=7, times="importance", descend="bound")
    assert torch.allclose(part.importance(), torch.full((7,), 1 / 7))
    losses = torch.rand(7, 12, dtype=torch.float64)
    for i in range(12):
        for t in range(7):
            part.remember(torch.tensor([t + 1]), losses[t, i].view(1))
        assert torch.allclose(part.importance(), torch.full((7,), 1 / 7)) == (i < KEPT - 1)
    p = part.importance().double()
    root = losses[:, -KEPT:].square().mean(1).sqrt()
    torch.testing.assert_close(p, 0.999 * root / root.sum() + 0.001 / 7, rtol=1e-5, atol=1e-6)
    given = torch.rand(7, dtype=torch.float64)
    weights = 1 / (7 * p)
    assert float((p * weights * given).sum()) == pytest.approx(float(given.mean()), abs=1e-12)
    draw = Draw(0, "t", 0, tuple(range(30_000)))
    t, w = part.drawn_times(draw)
    torch.testing.assert_close(torch.bincount(t - 1, minlength=7) / 30_000, p.float(), atol=0.01, rtol=0.05)
    torch.testing.assert_close(w.double(), weights[t - 1], rtol=1e-4, atol=1e-4)
    assert float((w * given[t - 1]).mean()) == pytest.approx(float(given.mean()), rel=0.02)


def test_losses_of_one_step_in_one_batch_are_all_kept() -> None:
    part = ImprovedDdpm(steps=5, times="importance")
    part.remember(torch.tensor([2, 3, 2, 2]), torch.tensor([1.0, 5.0, 2.0, 3.0]))
    part.remember(torch.tensor([2]), torch.tensor([4.0]))
    assert part.history[1, :5].tolist() == [1, 2, 3, 4, 0]
    assert part.seen.tolist() == [0, 4, 1, 0, 0]


def test_known_tokens_do_not_count() -> None:
    given, draw = example(4)
    where = torch.zeros(4, 6, dtype=torch.bool)
    where[:, :4] = True
    assert given.tokens is not None
    told = Conditioning(known=Known(given.tokens.filled(), where))
    raw = torch.randn(4, 6, 8)
    wild = raw.clone()
    wild[:, :4] = 1e3
    part = ImprovedDdpm(steps=50)
    losses = [part.loss(Says(r), Example(given.tokens, told, given.batch), draw, "learner").total for r in (raw, wild)]
    assert torch.equal(*losses)


# Sohl-Dickstein's chains


def gaussian(steps: int, learned: bool = False) -> Variational:
    return Variational(chain="gaussian", steps=steps, learned=learned)


@pytest.mark.parametrize("step", ["code", "paper"])
def test_the_gaussian_networks_output_is_the_published_one(step) -> None:
    """Sigma = sigmoid(z + logit beta), mu = (x - z_mu)(1 - Sigma) + z_mu in the paper, another in the released code;
    through the chain's own sampler."""
    part, t = Variational(steps=20, step=step), 9
    chain = part.process
    assert isinstance(chain, GaussianChain)
    torch.manual_seed(0)
    tokens = Tokens.canvas(Grid(1, 2, 3), 2).with_values(torch.randn(2, 6, 4))
    raw = torch.randn(2, 6, 8)
    said = chain.prediction(raw, tokens, torch.full((2,), t / 20))
    levels = torch.tensor([t, t - 1], dtype=torch.float64) / 20
    (a, a_then), (s, s_then) = (c.tolist() for c in chain.coefficients(levels))
    z_mean, z_variance = raw.chunk(2, dim=-1)
    beta = part.beta()[t - 1]
    x, logit = tokens.filled(), (beta / (1 - beta)).log().float()
    sigma = torch.sigmoid((z_variance / math.sqrt(20) if step == "code" else z_variance) + logit)
    mean = (x - z_mean) * (1 - sigma) + z_mean
    if step == "code":
        mean = x * float(1 - beta) ** 0.5 + z_mean * float(beta) ** 0.5
    made = ancestral_step(said, (a, s), (a_then, s_then), "small", 0.0, torch.zeros(2, 6, 4))
    torch.testing.assert_close(made, mean, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(step_variance(said, (a, s), (a_then, s_then), "small"), sigma, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("steps", [5, 40, 1000])
def test_on_unit_gaussian_data_the_bound_is_the_entropy(steps) -> None:
    """With the reverse step equal to the forward one, K is the log likelihood whatever the rates."""
    part = gaussian(steps)
    chain = part.process
    assert isinstance(chain, GaussianChain)
    keeps, beta = chain.keeps(), chain.beta()
    total = float(chain.ends())
    of_clean, of_noisy, _, low, _ = chain.tables()
    for t in range(2, steps + 1):
        # E (x0 - E[x0 | x_t])^2 = 1 - abar_t; the forward step back has mean sqrt(1 - beta) x_t and variance beta.
        gap = of_clean[t] * (1 - keeps[t]).sqrt()
        assert float(of_clean[t] * keeps[t].sqrt() + of_noisy[t]) == pytest.approx(float((1 - beta[t - 1]).sqrt()))
        total += float(gaussian_kl(gap, low[t], f64(0.0), beta[t - 1].log()))
    assert total == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-9)


def test_the_loss_is_that_bound_in_bits() -> None:
    """On unit Gaussian data, with zero output, which is the forward step, the loss is the entropy, within the drawing of steps."""
    part, clips = Variational(steps=12, first=0.1), 30_000
    torch.manual_seed(0)
    tokens = Tokens.canvas(Grid(1, 2, 2), clips).with_values(torch.randn(clips, 4, 3))
    given = Example(tokens, Conditioning(), Batch(clips=tuple(range(clips))))
    bits = part.loss(Says(torch.zeros(clips, 4, 6)), given, Draw(0, "t", 0, tuple(range(clips))), "learner").total
    assert bits.item() == pytest.approx(0.5 * math.log2(2 * math.pi * math.e), abs=0.03)


def test_rates_learn_and_the_first_does_not() -> None:
    part = gaussian(10, learned=True)
    assert part.rates is not None
    assert part.rates.shape == (9,)
    given, draw = example(64)
    part.loss(Says(torch.randn(64, 6, 8)), given, draw, "learner").total.backward()
    assert part.rates.grad is not None
    assert (part.rates.grad != 0).all()
    assert float(part.beta()[0].detach()) == 1e-3
    with pytest.raises(ValueError, match="learned"):
        Variational(chain="binomial", learned=True)


@pytest.mark.parametrize("name", ["first", "share"])
def test_the_first_step_is_the_forward_one(name) -> None:
    part = gaussian(20)
    tokens = Tokens.canvas(Grid(1, 2, 2), 1).with_values(torch.randn(1, 4, 3))
    one, other = (part.process.prediction(torch.randn(1, 4, 6), tokens, torch.tensor([0.05])) for _ in range(2))
    assert torch.equal(one.as_clean(), other.as_clean())
    torch.testing.assert_close(one.as_clean(), tokens.filled() * math.sqrt(1 - 1e-3))


def test_gaussian_chains_are_sampled() -> None:
    """Zero output, the forward step back, samples the unit Gaussian, at full length and with fewer steps."""
    part = gaussian(100)
    canvas, draw = Tokens.canvas(Grid(1, 8, 8), 32), Draw(0, "s", 0, tuple(range(32)))
    token = TokenFact(width=3, grid=Grid(1, 8, 8), channels=3)
    for steps in (100, 40):
        made = Ancestral(token, part.process, steps=steps).sample(
            Says(torch.zeros(32, 64, 6)), canvas, Conditioning(), draw
        )
        assert made.filled().mean().item() == pytest.approx(0, abs=0.03)
        assert made.filled().std().item() == pytest.approx(1, abs=0.03)


# Bits by enumeration


def enumerated(steps: int) -> float:
    """K in bits for one-hot vectors of five bits, all alike, with the best factorised steps back."""
    chain = BinomialChain(steps)
    data = torch.eye(5) * 2 - 1
    states = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 5)
    keeps, total = chain.keeps(), 0.0
    for t in range(2, steps + 1):
        # p(x_t | x0) of every state and data point, and the best guess of each earlier bit.
        one = (1 + float(keeps[t]) * data[:, None] * states[None]) / 2
        joint = one.double().prod(dim=-1) / 5  # data x states
        rows = Tokens.canvas(Grid(1, 1, 5), 32).with_values(states[..., None])
        level = torch.full((32,), t / steps)
        rate, before = float(chain.beta()[t - 1]), float(keeps[t - 1])
        up = (1 + states[None] * (1 - rate)) * (1 + data[:, None] * before)
        down = (1 - states[None] * (1 - rate)) * (1 - data[:, None] * before)
        q = (up / (up + down)).double()
        best = (joint[..., None] * q).sum(0) / joint.sum(0)[:, None]
        # The network's output that says so: a logit beside the forward step's.
        wanted = (best / (1 - best)).log() - 2 * torch.atanh((states * (1 - rate)).double())
        said = chain.prediction(wanted[..., None].float(), rows, level)
        torch.testing.assert_close((1 + said.field[..., 0].double()) / 2, best, atol=1e-5, rtol=1e-4)
        for i in range(5):
            clean = rows.with_values(data[i].expand(32, 5)[..., None])
            terms = chain.term(said, clean, torch.full((32,), t)).double().sum((1, 2))
            total += float((joint[i] * terms).sum())
    return -(total + 5 * float(chain.ends())) / math.log(2)


@pytest.mark.parametrize(("steps", "expected"), [(5, -4.01214), (10, -3.51280)])
def test_chains_of_bits_by_enumeration(steps, expected) -> None:
    made = enumerated(steps)
    assert made == pytest.approx(expected, abs=2e-5)
    assert made < -math.log2(5)


@pytest.mark.slow
def test_a_long_chain_of_bits_by_enumeration() -> None:
    assert enumerated(1000) == pytest.approx(-2.35626, abs=3e-4)


def test_bits_are_noised_as_the_chain_says() -> None:
    chain, clips = BinomialChain(10), 20_000
    tokens = Tokens.canvas(Grid(1, 1, 2), clips).with_values(torch.tensor([[0.4], [-3.0]]).expand(clips, 2, 1))
    for t in (1, 4, 10):
        noisy = chain.noised(tokens, torch.randn(clips, 2, 1), torch.full((clips,), t / 10)).filled()
        assert set(noisy.unique().tolist()) <= {-1.0, 1.0}
        expected = float(chain.keeps()[t])
        assert noisy.mean(0).flatten().tolist() == pytest.approx([expected, -expected], abs=0.02)
    assert float(chain.keeps()[10]) == 0


def test_sampled_bits_have_the_datas_distribution() -> None:
    """Independent bits whose chance of a 1 is p: the exact step back, and known ones that stay."""
    chain, p = BinomialChain(30), 0.8
    token = TokenFact(width=2, grid=Grid(1, 4, 4), channels=2)

    class Exact(torch.nn.Module):
        def forward(self, tokens, level, conditioning):
            t = int((level[0] / 1000 * 30).round())
            x, before, rate = tokens.filled(), float(chain.keeps()[t - 1]), float(chain.beta()[t - 1])
            prior = 0.5 + before * (p - 0.5)
            up, down = (1 + x * (1 - rate)) * prior, (1 - x * (1 - rate)) * (1 - prior)
            return (up / down).log() - 2 * torch.atanh(x * (1 - rate))

    canvas, draw = Tokens.canvas(Grid(1, 4, 4), 300), Draw(0, "s", 0, tuple(range(300)))
    part = Binomial(token, chain)
    made = part.sample(Exact(), canvas, Conditioning(), draw).filled()
    assert set(made.unique().tolist()) == {-1.0, 1.0}
    # The first step and the forward one that stands for its reverse each draw a bit anew once in thirty times.
    assert (made > 0).float().mean().item() == pytest.approx(0.5 + (p - 0.5) * (29 / 30) ** 2, abs=0.015)
    assert part.calls(canvas) == 30
    where = torch.zeros(300, 16, dtype=torch.bool)
    where[:, 3] = True
    told = Conditioning(known=Known(torch.full((300, 16, 2), -0.2), where))
    kept = part.sample(Exact(), canvas, told, draw).filled()
    assert (kept[:, 3] == -1).all()


def test_the_objective_of_bits_is_bounded_by_fair_coins() -> None:
    """On fair coins nothing can be learned: zero output costs at least a bit per value."""
    part, clips = Variational(chain="binomial", steps=8), 4000
    torch.manual_seed(0)
    tokens = Tokens.canvas(Grid(1, 2, 2), clips).with_values(torch.randn(clips, 4, 3))
    given = Example(tokens, Conditioning(), Batch(clips=tuple(range(clips))))
    bits = part.loss(Says(torch.zeros(clips, 4, 3)), given, Draw(0, "t", 0, tuple(range(clips))), "learner").total
    assert bits.item() == pytest.approx(1.0, abs=0.02)


def test_the_chain_of_ddpm_agrees_with_its_process() -> None:
    """Rows of the table against the posterior from (signal, noise)."""
    beta = betas("cosine", 50)
    process, table = DdpmProcess(beta), Chain(beta).table
    for t in (2, 25, 50):
        now, then = (tuple(float(c) for c in process.coefficients(f64(i / 50))) for i in (t, t - 1))
        q = posterior(now, then)
        assert [float(row[t]) for row in table] == pytest.approx(
            [q.of_clean, q.of_noisy, math.log(q.forward), math.log(q.variance)], rel=1e-6
        )


def test_predictions_say_what_they_share() -> None:
    x = torch.zeros(1, 2, 3)
    said = Prediction(x, "clean", x, torch.tensor(0.6), torch.tensor(0.8), share=torch.full_like(x, 0.5))
    q = posterior((0.6, 0.8), (0.8, 0.6))
    expected = math.sqrt(q.forward * q.variance)
    torch.testing.assert_close(step_variance(said, (0.6, 0.8), (0.8, 0.6), "large"), torch.full_like(x, expected))
