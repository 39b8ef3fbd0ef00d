"""What dropout leaves: closed forms, ridge regression, Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from nndiag.functional import effective_dof, kept_units, largest_safe_p, variance_shift, what_if
from nndiag.measures.dropout_capacity import upper_end


def spectrum(a: np.ndarray) -> np.ndarray:
    """Eigenvalues of D^-1/2 Cov(a) D^-1/2 with D = E[a^2]."""
    scale = np.sqrt((a**2).mean(0))
    return np.linalg.eigvalsh(np.cov(a.T, bias=True) / np.outer(scale, scale))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_kept_units_follow_the_binomial_law(p: float) -> None:
    kept, law = kept_units(64, p), stats.binom(64, 1 - p)
    assert (kept.mean, kept.sd) == (pytest.approx(law.mean()), pytest.approx(law.std()))
    assert kept.none == pytest.approx(law.pmf(0))
    assert kept.entropy_bits == pytest.approx(64 * stats.entropy([p, 1 - p], base=2))
    assert kept.log2_subnetworks == 64


@pytest.mark.parametrize(("p", "mean", "none"), [(0.0, 64, 0.0), (1.0, 0, 1.0)])
def test_a_mask_that_is_not_drawn_has_one_member(p: float, mean: float, none: float) -> None:
    assert kept_units(64, p) == (mean, 0, 0, 0, none)


def test_a_fair_coin_is_one_bit() -> None:
    assert kept_units(1, 0.5).entropy_bits == 1.0


COPIES = {"independent": (64, 1, 32.0), "equal": (1, 64, 64 / 65), "pairs": (32, 2, 64 / 3)}


@pytest.mark.parametrize(("distinct", "copies", "expected"), COPIES.values(), ids=COPIES)
def test_copies_protect_each_other(distinct: int, copies: int, expected: float) -> None:
    """Copies share one eigenvalue, as large as there are of them."""
    eigenvalues = [float(copies)] * distinct + [0.0] * (distinct * (copies - 1))
    assert effective_dof(eigenvalues, 0.5) == pytest.approx(expected, rel=1e-14)


def test_sixteen_distinct_units_of_256() -> None:
    assert effective_dof([16.0] * 16, 0.5) == pytest.approx(15.0588, abs=5e-5)
    assert effective_dof([1.0] * 16, 0.5) == 8.0


def test_ends_of_the_curve_are_the_rank_and_nothing() -> None:
    eigenvalues = [2.0, 1.0, 0.5, 1e-13, 0.0, -1e-17]
    assert effective_dof(eigenvalues, 0.0) == 3
    assert effective_dof(eigenvalues, 1.0) == 0
    assert effective_dof([], 0.0) == effective_dof([], 0.5) == 0


def test_what_is_left_falls_with_p() -> None:
    curve = list(what_if(np.linspace(0.1, 3, 20)).items())
    assert [p for p, _ in curve] == [0.0, 0.1, 0.2, 0.3, 0.5]
    assert all(more > less for (_, more), (_, less) in itertools.pairwise(curve))


@pytest.mark.parametrize(("needed", "p"), [(4.0, 0.5), (5.7, 0.2), (8.0, 0.0), (9.0, 0.0)])
def test_largest_p_that_leaves_enough(needed: float, p: float) -> None:
    """Eight independent units leave 8 q: 4, 5.6, 6.4, 7.2, 8."""
    assert largest_safe_p([1.0] * 8, needed - 1e-9) == p


def test_it_is_the_trace_of_the_hat_matrix_of_ridge_regression() -> None:
    """Penalty p / q diag(A'A), with an intercept that is not penalized."""
    rng = np.random.default_rng(0)
    a = np.maximum(rng.normal(size=(200, 4)) @ rng.normal(size=(4, 12)) + rng.normal(size=12), 0)
    p, centered = 0.3, a - a.mean(0)
    penalty = p / (1 - p) * np.diag((a**2).sum(0))
    trace = np.trace(centered @ np.linalg.solve(centered.T @ centered + penalty, centered.T))
    assert effective_dof(spectrum(a), p) == pytest.approx(trace, abs=1e-9)


def test_least_squares_under_dropout_is_that_ridge_regression() -> None:
    """The normal equations of 4,000 masked copies of the data come to those of the ridge."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=(60, 5)) + 0.5
    y = a @ np.array([1.0, -2.0, 0.5, 0.0, 1.5]) + 0.1 * rng.normal(size=60)
    q = 0.6
    masked = (rng.random((4000, 60, 5)) < q) * a / q
    flat = masked.reshape(-1, 5)
    drawn = np.linalg.solve(flat.T @ flat, flat.T @ np.tile(y, 4000))
    ridge = np.linalg.solve(a.T @ a + (1 - q) / q * np.diag((a**2).sum(0)), a.T @ y)
    assert_allclose(drawn, ridge, atol=0.02)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_scale_and_order_of_units_do_not_matter(p: float) -> None:
    rng = np.random.default_rng(2)
    a = np.maximum(rng.normal(size=(300, 3)) @ rng.normal(size=(3, 10)), 0)
    moved = (a * np.exp(rng.normal(size=10)))[:, rng.permutation(10)]
    assert effective_dof(spectrum(moved), p) == pytest.approx(effective_dof(spectrum(a), p), abs=1e-8)


@pytest.mark.parametrize(("n", "average"), [(32, 18.3), (64, 24.2), (128, 28.0), (256, 30.0), (1024, 31.5)])
def test_few_samples_read_low_and_the_upper_end_covers_what_is_true(n: int, average: float) -> None:
    rng = np.random.default_rng(n)
    found = [effective_dof(spectrum(rng.normal(size=(n, 64))), 0.5) for _ in range(8)]
    assert np.mean(found) == pytest.approx(average, abs=0.3)
    assert max(found) < 32 <= min(upper_end(dof, n) for dof in found)


@pytest.mark.parametrize("n", [24, 48, 200])
def test_the_upper_end_covers_a_spectrum_that_decays(n: int) -> None:
    """Units of a mean and of variances like 1 / k: the truth is read off their covariance."""
    rng = np.random.default_rng(n)
    variance = 1 / np.arange(1, 41)
    true = effective_dof(variance / (variance + 0.25), 0.5)
    found = [
        effective_dof(spectrum(0.5 + rng.normal(size=(n, 40)) * np.sqrt(variance)), 0.5) for _ in range(40)
    ]
    assert np.mean(found) < true <= np.mean([upper_end(dof, n) for dof in found])


def test_the_upper_end_is_not_much_above_what_many_samples_say() -> None:
    assert upper_end(31.5, 1024) == pytest.approx(32, rel=0.02)


@pytest.mark.parametrize(
    ("mean", "p", "expected"), [(0, 0.5, 0.5), (1, 0.5, 1 / 3), (2, 0.0, 1.0), (1, 0.2, 0.8 / 1.2)]
)
def test_variance_behind_a_dropout(mean: float, p: float, expected: float) -> None:
    assert variance_shift(mean, 1.0, p) == pytest.approx(expected)


@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_variance_behind_a_dropout_by_drawing(mean: float) -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(mean, 2.0, 400_000)
    trained = (rng.random(a.size) < 0.5) * a / 0.5
    assert variance_shift(mean, 4.0, 0.5) == pytest.approx(a.var() / trained.var(), rel=0.02)


def test_a_unit_that_is_always_off_has_no_ratio() -> None:
    assert math.isnan(variance_shift(0.0, 0.0, 0.5))
