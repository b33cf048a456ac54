"""The samplers on Gaussian data against the closed form, and their steps against diffusers' schedulers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Grid, Known, Prediction, Tokens
from mutoscope.plugins.diffusion.ancestral import Ancestral, ancestral_step
from mutoscope.plugins.diffusion.ddim import Ddim, ddim_step
from mutoscope.plugins.diffusion.ddpm import Ddpm, DdpmProcess, betas
from mutoscope.plugins.diffusion.euler import Euler
from mutoscope.plugins.diffusion.flow import FlowProcess
from mutoscope.plugins.diffusion.heun import Heun

SAMPLERS = (Euler, Heun, Ddim, Ancestral)
PROCESSES = {
    "flow": lambda: FlowProcess(),
    "flow-clean": lambda: FlowProcess("clean"),
    "flow-shifted": lambda: FlowProcess(shift=2.0),
    "ddpm": lambda: Ddpm().process,
    "ddpm-velocity": lambda: Ddpm(predict="velocity").process,
    "cosine-clean": lambda: Ddpm(schedule="cosine", predict="clean").process,
}
SPREAD, MEAN = 0.5, 0.3


def flow_map(process, noise: torch.Tensor) -> torch.Tensor:
    """Where the probability flow takes `noise`, for data N(MEAN, SPREAD^2)."""
    level = process.levels(1)[:1]
    a, s = (float(x) for x in process.coefficients(level))
    x = noise.double() * math.hypot(a, s)
    return MEAN + SPREAD * (x - a * MEAN) / math.sqrt(a * a * SPREAD**2 + s * s)


def error(sampler, steps, process, token, canvas, draw, exact, by_time) -> float:
    timed = by_time(process)
    made = sampler(token, timed, steps=steps).sample(exact(timed, SPREAD, MEAN), canvas, Conditioning(), draw)
    expected = flow_map(process, draw.like(canvas, width=token.width))
    return float((made.filled() - expected).abs().max())


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("sampler", "order", "bound"), [(Euler, 1, 0.04), (Heun, 2, 0.001), (Ddim, 1, 0.04)])
def test_the_probability_flow_is_followed(sampler, order, bound, process, token, canvas, draw, exact, by_time) -> None:
    """Errors are small and fall by 2^order when the steps double."""
    made = PROCESSES[process]()
    errors = [error(sampler, steps, made, token, canvas, draw, exact, by_time) for steps in (32, 64, 128)]
    assert errors[-1] < bound
    if not isinstance(made, DdpmProcess):  # a chain's levels lie on its grid of a thousand, unevenly
        for coarse, fine in pairwise(errors):
            assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("sampler", "order"), [(Euler, 1), (Heun, 2)])
def test_the_order_holds_on_a_fine_chain(sampler, order, token, canvas, draw, exact, by_time) -> None:
    process = DdpmProcess(betas("linear", 64000), "clean")
    errors = [error(sampler, steps, process, token, canvas, draw, exact, by_time) for steps in (32, 64, 128)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("process", PROCESSES)
def test_one_constant_clean_estimate_is_reached_exactly(process, token, canvas, draw, exact, by_time) -> None:
    """Data at one point: every sampler ends there whatever its steps."""
    timed = by_time(PROCESSES[process]())
    for sampler in SAMPLERS:
        made = sampler(token, timed, steps=3).sample(exact(timed, 1e-4, 0.7), canvas, Conditioning(), draw)
        torch.testing.assert_close(made.filled(), torch.full_like(made.filled(), 0.7), atol=2e-3, rtol=0)


def test_euler_is_ddim_without_noise(token, canvas, draw, exact, by_time) -> None:
    for name in PROCESSES:
        timed = by_time(PROCESSES[name]())
        one, other = (
            s(token, timed, steps=10).sample(exact(timed), canvas, Conditioning(), draw).filled() for s in (Euler, Ddim)
        )
        torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", ["flow", "ddpm", "cosine-clean"])
@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        (Ancestral, {"variance": "small"}),
        (Ancestral, {"variance": "large"}),
        (Ddim, {"eta": 1.0}),
        (Ddim, {"eta": 0.5}),
    ],
)
def test_random_samplers_have_the_datas_distribution(sampler, settings, name, token, exact, by_time) -> None:
    """Mean and spread of many samples, against the data's."""
    if name == "flow" and settings.get("variance") == "large":
        pytest.skip("on the straight path, what the forward step adds exceeds the posterior by far: a matter of DDPM")
    timed, canvas = by_time(PROCESSES[name]()), Tokens.canvas(Grid(1, 8, 8), 64)
    draw = Draw(0, "sample", 0, tuple(range(64)))
    made = sampler(token, timed, steps=500, **settings).sample(exact(timed, SPREAD, MEAN), canvas, Conditioning(), draw)
    assert made.filled().mean() == pytest.approx(MEAN, abs=0.02)
    assert made.filled().std() == pytest.approx(SPREAD, abs=0.02)


def test_ddim_at_full_noise_is_ancestral(token, canvas, draw, exact, by_time) -> None:
    timed = by_time(Ddpm().process)
    one = Ddim(token, timed, steps=40, eta=1.0).sample(exact(timed), canvas, Conditioning(), draw)
    other = Ancestral(token, timed, steps=40).sample(exact(timed), canvas, Conditioning(), draw)
    torch.testing.assert_close(one.filled(), other.filled(), atol=1e-4, rtol=1e-4)


# Against diffusers

OURS = {"epsilon": "noise", "sample": "clean", "v_prediction": "velocity"}
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}


def in_float64(scheduler, schedule: str):
    """diffusers accumulates its tables in float32, which is off by 1e-4 where beta is small; here are exact ones."""
    scheduler.betas = torch.from_numpy(betas(SCHEDULES[schedule], 1000))
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


def step_of(kind: str, schedule: str, t: int, back: int):
    """A prediction at diffusers' step t (counted from 0), and the coefficients there and `back` steps earlier."""
    torch.manual_seed(t)
    process = Ddpm(schedule=SCHEDULES[schedule], predict=OURS[kind]).process
    x, field = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    levels = torch.tensor([t + 1, max(t + 1 - back, 0)], dtype=torch.float64) / 1000
    (a, a_then), (s, s_then) = (c.tolist() for c in process.coefficients(levels))
    said = Prediction(field, process.kind, x, torch.tensor(a), torch.tensor(s))
    return x, field, said, (a, s), (a_then, s_then)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_ancestral_steps_are_the_independent_sources(kind, schedule, variance, bound) -> None:
    diffusers = pytest.importorskip("diffusers")
    settings = {"prediction_type": kind, "variance_type": f"fixed_{variance}", "clip_sample": bound > 0}
    theirs = in_float64(diffusers.DDPMScheduler(1000, **settings), schedule)
    for t in (0, 1, 10, 500, 900, 990):
        x, field, said, now, then = step_of(kind, schedule, t, 1)
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(t)) if t else None
        expected = theirs.step(field, t, x, generator=torch.Generator().manual_seed(t)).prev_sample
        ours = ancestral_step(said, now, then, variance, bound, z)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(ours / scale, expected / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_steps_are_the_independent_sources(kind, schedule, eta) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = in_float64(diffusers.DDIMScheduler(1000, prediction_type=kind, clip_sample=False), schedule)
    theirs.set_timesteps(50)
    for t in (19, 119, 519, 899, 979):
        x, field, said, now, then = step_of(kind, schedule, t, 20)
        z = torch.randn(x.shape)
        expected = theirs.step(field, t, x, eta=eta, variance_noise=z if eta else None).prev_sample
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(ddim_step(said, now, then, eta, z) / scale, expected / scale, atol=1e-5, rtol=1e-5)


def test_unit_data_needs_no_correction() -> None:
    """With eps = sqrt(1 - abar) x, exact for unit Gaussian data, the mean is sqrt(1 - beta) x."""
    process = Ddpm().process
    for t in (2, 50, 1000):
        (a, a_then), (s, s_then) = (
            c.tolist() for c in process.coefficients(torch.tensor([t, t - 1], dtype=torch.float64) / 1000)
        )
        x = torch.randn(2, 3, 4, dtype=torch.float64)
        said = Prediction(s * x, "noise", x, torch.tensor(a), torch.tensor(s))
        mean = ancestral_step(said, (a, s), (a_then, s_then), "large", 0.0, None)
        torch.testing.assert_close(mean, math.sqrt(1 - betas("linear", 1000)[t - 1]) * x, rtol=1e-5, atol=1e-7)


def test_a_learned_variance_takes_the_fixed_ones_place() -> None:
    x = torch.zeros(1, 2, 3)
    said = Prediction(x, "clean", x, torch.tensor(0.6), torch.tensor(0.8), log_variance=torch.full_like(x, 2.0).log())
    z = torch.ones_like(x)
    torch.testing.assert_close(ancestral_step(said, (0.6, 0.8), (0.8, 0.6), "small", 0.0, z), math.sqrt(2) * z)


# What they all hold


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch_mates(sampler, token, exact, by_time) -> None:
    timed = by_time(FlowProcess())
    made = {}
    for clips in ((0, 1, 2), (7, 2)):
        canvas, draw = Tokens.canvas(Grid(2, 2, 2), len(clips)), Draw(0, "sample", 0, clips)
        made[clips] = sampler(token, timed, steps=5).sample(exact(timed), canvas, Conditioning(), draw).filled()
    assert torch.equal(made[0, 1, 2][2], made[7, 2][1])
    assert not torch.allclose(made[0, 1, 2][0], made[0, 1, 2][1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_packed_clips_are_sampled_as_alone(sampler, packed, token, exact, by_time) -> None:
    timed, draw = by_time(FlowProcess()), Draw(0, "sample", 0, (0, 1, 2))
    part = sampler(token, timed, steps=4)
    together = part.sample(exact(timed), packed.with_values(None), Conditioning(), draw).filled()
    for i, grid in enumerate(packed.grids):
        alone = part.sample(exact(timed), Tokens.canvas(grid, 1), Conditioning(), draw.of((i,))).filled()
        torch.testing.assert_close(together[packed.clip == i + 1], alone[0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_tokens_stay_clean_at_every_call(sampler, token, canvas, draw, exact, by_time) -> None:
    timed = by_time(FlowProcess())
    where = torch.zeros(5, 12, dtype=torch.bool)
    where[:, :6] = True
    told = Conditioning(known=Known(torch.full((5, 12, 4), 3.0), where))
    network = exact(timed)
    made = sampler(token, timed, steps=4).sample(network, canvas, told, draw).filled()
    free = sampler(token, timed, steps=4).sample(exact(timed), canvas, Conditioning(), draw).filled()
    assert all((x[:, :6] == 3).all() for x in network.seen)
    assert (made[:, :6] == 3).all()
    torch.testing.assert_close(made[:, 6:], free[:, 6:])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.8), (0.0, 0.0)])
def test_calls_are_counted_as_made(sampler, guidance, interval, token, canvas, draw, exact, by_time) -> None:
    timed = by_time(FlowProcess())
    part = sampler(token, timed, steps=7, guidance=guidance, guidance_interval=interval)
    pooled = torch.zeros(5, 1)
    network = exact(timed)
    part.sample(network, canvas, Conditioning(pooled, null=Conditioning(pooled + 1)), draw)
    assert part.calls(canvas) == network.calls


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_and_intervals_that_cannot_be_are_refused(sampler, token) -> None:
    with pytest.raises(InputError, match="at most 1000"):
        sampler(token, Ddpm().process, steps=1001)
    with pytest.raises(InputError, match="guidance_interval"):
        sampler(token, FlowProcess(), guidance_interval=(0.8, 0.2))


def test_first_step_does_not_need_the_data(token, canvas, draw, exact, by_time) -> None:
    """At time 1 of the straight path there is no signal: nothing divides by it."""
    for kind in ("flow", "clean"):
        timed = by_time(FlowProcess(kind))
        for sampler in SAMPLERS:
            made = sampler(token, timed, steps=2).sample(exact(timed), canvas, Conditioning(), draw)
            assert torch.isfinite(made.filled()).all()
    timed = by_time(FlowProcess("noise"))
    for sampler in SAMPLERS:
        made = sampler(token, timed, steps=50).sample(exact(timed, SPREAD, MEAN), canvas, Conditioning(), draw)
        assert torch.isfinite(made.filled()).all()
