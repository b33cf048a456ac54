"""The processes of `flow` and `ddpm`: schedules, noising, and the meaning of every kind of prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.values import Grid, Known, Prediction, Tokens
from mutoscope.plugins.diffusion.ddpm import Ddpm, DdpmProcess, betas
from mutoscope.plugins.diffusion.flow import Flow, FlowProcess

KINDS = ("noise", "clean", "velocity", "flow")


@pytest.mark.parametrize(
    ("schedule", "steps", "ends", "first", "last", "half", "end", "posterior"),
    [
        ("linear", 1000, None, 1e-4, 0.02, 7.858724e-2, 4.035830e-5, 5.453188e-5),
        ("linear", 4000, None, 2.5e-5, 5e-3, None, None, None),
        ("cosine", 1000, None, 4.128422e-5, 0.999, 4.938436e-1, 2.428767e-9, 2.178950e-5),
        ("cosine", 4000, None, 9.865819e-6, 0.999, 4.938436e-1, 1.517980e-10, 5.007683e-6),
        ("root", 1000, None, 1.5e-3, 0.0195, 1.158445e-1, 1.423040e-4, 7.525194e-4),
        ("root", 1000, (0.00085, 0.012), 8.5e-4, 0.012, None, 4.66e-3, None),
    ],
)
def test_schedules_are_the_published_ones(schedule, steps, ends, first, last, half, end, posterior) -> None:
    """Tables recomputed from the official code of DDPM, improved DDPM and latent diffusion."""
    beta = betas(schedule, steps, ends)
    abar = DdpmProcess(beta).abar
    assert beta[0] == pytest.approx(first, rel=1e-6)
    assert beta[-1] == pytest.approx(last, rel=1e-6)
    if half is not None:
        assert abar[steps // 2] == pytest.approx(half, rel=1e-6)
        assert beta[1] * (1 - abar[1]) / (1 - abar[2]) == pytest.approx(posterior, rel=1e-6)
    if end is not None:
        assert abar[-1] == pytest.approx(end, rel=2e-3 if end == 4.66e-3 else 1e-6)
    assert (beta >= 0.999).sum() == (schedule == "cosine")


def test_noising_is_the_independent_sources() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(1000)
    ours, canvas = Ddpm().process, Tokens.canvas(Grid(1, 2, 2), 4)
    x0, eps = torch.randn(4, 4, 3), torch.randn(4, 4, 3)
    t = torch.tensor([0, 10, 500, 999])
    level = (t + 1) / 1000
    noised = ours.noised(canvas.with_values(x0), eps, level).filled()
    torch.testing.assert_close(noised, theirs.add_noise(x0, eps, t), atol=1e-5, rtol=1e-5)
    assert ours.coordinate(level).tolist() == t.tolist()


def test_levels_are_steps_of_the_chain() -> None:
    process = Ddpm(steps=1000).process
    levels = process.levels(250)
    t = levels * 1000
    assert len(levels) == 251
    assert levels[0] == 1
    assert levels[-1] == 0
    assert t[-2] == 1
    assert torch.equal(t, t.round())
    assert (t.diff() < 0).all()
    assert torch.equal(process.levels(1000) * 1000, torch.arange(1000, -1, -1, dtype=torch.float64))
    assert process.levels(1).tolist() == [1, 0]
    with pytest.raises(InputError, match="at most 1000"):
        process.levels(1001)


def test_respacing_keeps_the_subset_of_abar() -> None:
    process = Ddpm(schedule="cosine").process
    a, s = process.coefficients(process.levels(25))
    t = (process.levels(25) * 1000).round().long().numpy()
    np.testing.assert_allclose(a.numpy() ** 2, process.abar[t], rtol=1e-12)
    np.testing.assert_allclose((a**2 + s**2).numpy(), 1, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("process", [FlowProcess(), Ddpm().process, Ddpm(schedule="cosine").process])
def test_every_kind_says_the_same(kind, process, canvas) -> None:
    """From the true field of any kind, all others follow."""
    torch.manual_seed(0)
    x0, eps = torch.randn(5, 12, 4), torch.randn(5, 12, 4)
    level = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    noisy = process.noised(canvas.with_values(x0), eps, level)
    a, s = process.per_token(noisy, level)
    fields = {"noise": eps, "clean": x0, "velocity": a * eps - s * x0, "flow": eps - x0}
    said = Prediction(fields[kind], kind, noisy.filled(), a, s)
    for other in KINDS:
        torch.testing.assert_close(said.as_kind(other), fields[other], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(said.as_score(), -eps / s, atol=2e-3, rtol=1e-3)


def test_flow_is_the_straight_path_and_knows_what_is_known(canvas) -> None:
    process = Flow().process
    x0, eps = torch.randn(5, 12, 4), torch.randn(5, 12, 4)
    where = torch.zeros(5, 12, dtype=torch.bool)
    where[:, :6] = True
    known = Known(torch.full((5, 12, 4), 7.0), where)
    level = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    noisy = process.noised(canvas.with_values(x0), eps, level, known).filled()
    assert (noisy[:, :6] == 7).all()
    torch.testing.assert_close(noisy[:, 6:], torch.lerp(x0, eps, level[:, None, None])[:, 6:])
    assert process.coordinate(level).tolist() == [0, 250, 500, 750, 1000]


def test_shift_moves_times_towards_noise() -> None:
    plain, shifted = FlowProcess().levels(4), FlowProcess(shift=3.0).levels(4)
    assert plain.tolist() == [1, 0.75, 0.5, 0.25, 0]
    torch.testing.assert_close(shifted, torch.tensor([1, 0.9, 0.75, 0.5, 0], dtype=torch.float64))
    assert FlowProcess("noise").levels(4)[0] < 1
