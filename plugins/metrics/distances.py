"""Distances between two sets of features, n d and m d, all in float64."""

from __future__ import annotations

import numpy as np

LEVEL = 0.95


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of the normal distributions of two samples, covariances with n - 1.

    Dowson & Landau 1982: |mu - nu|^2 + tr(S + R - 2 (S R)^(1/2)). With more features than clips the covariances have no
    full rank, where every route through roots loses digits; there the trace of the root is the nuclear norm of the
    product of the centred samples, over their roots of n - 1, which is exact for any rank.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    dx, dy = x - x.mean(0), y - y.mean(0)
    n, m, d = len(x), len(y), x.shape[1]
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    spread = np.square(dx).sum() / (n - 1) + np.square(dy).sum() / (m - 1)
    if min(n, m) <= d:
        root = np.linalg.svd(dx @ dy.T, compute_uv=False).sum() / np.sqrt((n - 1.0) * (m - 1.0))
        return float(gap + spread - 2 * root)
    return frechet_of_moments(x.mean(0), dx.T @ dx / (n - 1), y.mean(0), dy.T @ dy / (m - 1))


def frechet_of_moments(mu: np.ndarray, s: np.ndarray, nu: np.ndarray, r: np.ndarray) -> float:
    """The same of means and covariances of full rank: the root's trace by two symmetric eigenproblems."""
    values, vectors = np.linalg.eigh(s)
    half = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    root = np.sqrt(np.clip(np.linalg.eigvalsh(half @ r @ half), 0, None)).sum()
    return float(np.square(mu - nu).sum() + np.trace(s) + np.trace(r) - 2 * root)


def frechet_interval(x: np.ndarray, y: np.ndarray, groups: int = 16) -> tuple[float, float, float]:
    """The distance and its interval, by a jackknife that leaves out one group of clips of one sample at a time.

    A bootstrap would repeat clips and so add to a distance that is biased upward already.
    """
    value, variance = frechet_distance(x, y), 0.0
    for i, sample in enumerate((x, y)):
        parts = np.array_split(np.arange(len(sample)), min(groups, len(sample)))
        left = [np.delete(sample, part, axis=0) for part in parts]
        values = np.array([frechet_distance(*((rest, y) if i == 0 else (x, rest))) for rest in left])
        variance += (len(parts) - 1) / len(parts) * np.square(values - values.mean()).sum()
    from scipy import stats  # here, since it takes a second to import

    half = float(stats.t.ppf(0.5 + LEVEL / 2, groups - 1) * np.sqrt(variance))
    return value, max(0.0, value - half), value + half


def polynomial(x: np.ndarray, y: np.ndarray, degree: int = 3, coef: float = 1.0) -> np.ndarray:
    """(x . y / d + c)^degree, n m. Binkowski et al. 2018, eq. 3: degree 3, c 1."""
    return (x @ y.T / x.shape[1] + coef) ** degree


def kernel_distance(x: np.ndarray, y: np.ndarray, degree: int = 3) -> tuple[float, float, float]:
    """The unbiased squared maximum mean discrepancy (Gretton et al. 2012, lemma 6) over all pairs, with its interval.

    The interval is a jackknife over single clips of both samples, in closed form from the sums of the kernel's rows.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    xx, yy, xy = polynomial(x, x, degree), polynomial(y, y, degree), polynomial(x, y, degree)
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    sxx, syy, sxy = xx.sum(), yy.sum(), xy.sum()
    value = sxx / (n * (n - 1)) + syy / (m * (m - 1)) - 2 * sxy / (n * m)
    variance = 0.0
    for rows, cross, whole, k, other in ((xx.sum(1), xy.sum(1), sxx, n, m), (yy.sum(1), xy.sum(0), syy, m, n)):
        within = (whole - 2 * rows) / ((k - 1) * (k - 2))
        between = (sxy - cross) / ((k - 1) * other)
        left = within - 2 * between
        variance += (k - 1) / k * np.square(left - left.mean()).sum()
    from scipy import stats

    half = float(stats.norm.ppf(0.5 + LEVEL / 2) * np.sqrt(variance))
    return float(value), float(value - half), float(value + half)


def kernel_parts(x: np.ndarray, y: np.ndarray, degree: int = 3) -> np.ndarray:
    """What each clip of x adds to `kernel_distance`, n; their mean is the distance.

    The jackknife's pseudo-values n v - (n - 1) v_(-i) (Tukey 1958); of an unbiased estimate over pairs their mean is the
    estimate itself. Two sets against one y differ by the mean of their parts' differences.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    xx, yy, xy = polynomial(x, x, degree), polynomial(y, y, degree), polynomial(x, y, degree)
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    among = yy.sum() / (m * (m - 1))
    whole = xx.sum() / (n * (n - 1)) + among - 2 * xy.sum() / (n * m)
    left = (xx.sum() - 2 * xx.sum(1)) / ((n - 1) * (n - 2)) + among - 2 * (xy.sum() - xy.sum(1)) / ((n - 1) * m)
    return n * whole - (n - 1) * left
