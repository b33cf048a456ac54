"""Distances against closed forms, and against torchmetrics and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from mutoscope.plugins.metrics.distances import (
    frechet_distance,
    frechet_interval,
    frechet_of_moments,
    kernel_distance,
    polynomial,
)


def sample(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d))) + rng.normal(size=d)


def test_diagonal_gaussians_have_a_closed_form() -> None:
    """|mu - nu|^2 + sum (s - r)^2 for deviations s and r on common axes."""
    rng = np.random.default_rng(1)
    mu, nu, s, r = (rng.uniform(0.2, 3, 12) for _ in range(4))
    exact = np.square(mu - nu).sum() + np.square(s - r).sum()
    assert frechet_of_moments(mu, np.diag(s**2), nu, np.diag(r**2)) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 16), (400, 300, 64)])
def test_frechet_agrees_with_torchmetrics_and_scipy(n: int, m: int, d: int) -> None:
    """Their float64 path; `compute` itself would cast to float32."""
    from torchmetrics.image.fid import _compute_fid

    x, y = sample(n, d), sample(m, d, 1)
    moments = [(z.mean(0), np.cov(z, rowvar=False)) for z in (x, y)]
    theirs = float(_compute_fid(*(torch.from_numpy(np.asarray(a)) for pair in moments for a in pair)))
    root = scipy.linalg.sqrtm(moments[0][1] @ moments[1][1])
    scipys = np.square(moments[0][0] - moments[1][0]).sum() + np.trace(moments[0][1] + moments[1][1] - 2 * root).real
    assert frechet_distance(x, y) == pytest.approx(theirs, abs=1e-6)
    assert frechet_distance(x, y) == pytest.approx(scipys, abs=1e-6)


def test_frechet_of_fewer_clips_than_features() -> None:
    """By the nuclear norm: as torchmetrics to a relative 1e-6, and 0 of a sample from itself to 1e-6 absolute."""
    from torchmetrics.image.fid import _compute_fid

    x, y = sample(30, 64), sample(24, 64, 1)
    moments = [(z.mean(0), np.cov(z, rowvar=False)) for z in (x, y)]
    theirs = float(_compute_fid(*(torch.from_numpy(np.asarray(a)) for pair in moments for a in pair)))
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-6)
    assert abs(frechet_distance(x, x)) < 1e-6


def test_both_routes_agree() -> None:
    x, y = sample(70, 64), sample(66, 64, 1)
    dx, dy = x - x.mean(0), y - y.mean(0)
    root = np.linalg.svd(dx @ dy.T, compute_uv=False).sum() / np.sqrt(69 * 65)
    low_rank = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T)) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(low_rank, abs=1e-8)


def test_frechet_is_a_distance_of_shapes() -> None:
    """Symmetric; unmoved by rotation, shift and order; scaled by the square of a scale; 0 of a sample from itself."""
    x, y = sample(120, 10), sample(90, 10, 1)
    value = frechet_distance(x, y)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(10, 10)))[0]
    assert frechet_distance(y, x) == pytest.approx(value, abs=1e-9)
    assert frechet_distance(x @ turn + 5, y @ turn + 5) == pytest.approx(value, abs=1e-8)
    assert frechet_distance(x[::-1], y[::-1]) == pytest.approx(value, abs=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * value, abs=1e-8)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_has_the_known_bias() -> None:
    """Of a standard normal sample from another: about d^2 / 2n + 2.5 d / n."""
    rng = np.random.default_rng(0)
    d, n = 32, 512
    values = [frechet_distance(rng.normal(size=(n, d)), rng.normal(size=(n, d))) for _ in range(5)]
    assert np.mean(values) == pytest.approx(d * d / (2 * n) + 2.5 * d / n, rel=0.1)


def test_kernel_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = sample(60, 12), sample(60, 12, 1)
    theirs = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y), degree=3, gamma=None, coef=1.0))
    assert kernel_distance(x, y)[0] == pytest.approx(theirs, rel=1e-6)


def test_kernel_is_the_mean_over_pairs() -> None:
    x, y = sample(7, 3), sample(5, 3, 1)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    xx = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y)[0] == pytest.approx(xx + yy - 2 * xy, rel=1e-12)
    assert polynomial(x, y).shape == (7, 5)


def test_kernel_is_unbiased_and_its_interval_covers() -> None:
    """Around 0 for samples of one distribution, and the interval holds 0 in about 95% of trials."""
    rng = np.random.default_rng(0)
    found = [kernel_distance(rng.normal(size=(100, 8)), rng.normal(size=(120, 8))) for _ in range(200)]
    values = np.array([value for value, _, _ in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert np.mean([low <= 0 <= high for _, low, high in found]) > 0.88


def test_jackknife_of_the_kernel_is_that_of_leaving_out() -> None:
    """The closed form against recomputing without each clip."""
    x, y = sample(9, 4), sample(8, 4, 1)
    value, low, high = kernel_distance(x, y)
    variance = 0.0
    for k, left in (
        (9, [kernel_distance(np.delete(x, i, 0), y)[0] for i in range(9)]),
        (8, [kernel_distance(x, np.delete(y, i, 0))[0] for i in range(8)]),
    ):
        variance += (k - 1) / k * np.square(np.array(left) - np.mean(left)).sum()
    assert (high - low) / 2 == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)
    assert (high + low) / 2 == pytest.approx(value, rel=1e-12)


def test_interval_of_frechet_holds_it() -> None:
    x, y = sample(160, 8), sample(160, 8, 1)
    value, low, high = frechet_interval(x, y)
    assert value == frechet_distance(x, y)
    assert 0 <= low < value < high
