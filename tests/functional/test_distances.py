"""Distances between Gaussians: exact values, degenerate cases, laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, stats

from nndiag.functional import (
    debiased,
    hellinger2,
    hellinger2_floor,
    jeffreys,
    mean_shift,
    scale_shift,
    sigma_equiv,
)

EXACT = [
    ((0, 1), (1, 1), 0.11750309741540454),
    ((0, 1), (0, 4), 0.10557280900008414),
    ((2, 3), (2, 3), 0.0),
    ((3, 0), (4, 0), 1.0),
    ((3, 0), (3, 0), 0.0),
    ((0, 0), (0, 1), 1.0),
    ((0, 1), (0, 0), 1.0),
]


@pytest.mark.parametrize(("there", "here", "expected"), EXACT)
def test_hellinger_of_known_pairs(
    there: tuple[float, float], here: tuple[float, float], expected: float
) -> None:
    assert hellinger2(*there, *here) == pytest.approx(expected, rel=1e-15)
    assert hellinger2(*here, *there) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("m1", "s1"), [(0.7, 1.0), (0.0, 2.5), (-3.0, 0.4)])
def test_hellinger_is_one_minus_the_overlap_of_densities(m1: float, s1: float) -> None:
    def product(x: float) -> float:
        return math.sqrt(stats.norm.pdf(x) * stats.norm.pdf(x, m1, s1))

    overlap = integrate.quad(product, -20, 20, epsabs=1e-12)[0]
    assert hellinger2(0, 1, m1, s1**2) == pytest.approx(1 - overlap, abs=1e-9)


def test_units_are_judged_one_by_one() -> None:
    there, here = zip(*((t, h) for t, h, _ in EXACT), strict=True)
    (m0, v0), (m1, v1) = np.array(there, dtype=float).T, np.array(here, dtype=float).T
    assert_allclose(hellinger2(m0, v0, m1, v1), [e for *_, e in EXACT], rtol=1e-15)


def test_hellinger_ignores_scale_and_offset_of_a_unit() -> None:
    rng = np.random.default_rng(0)
    m0, m1, v0, v1 = rng.normal(size=(2, 50)).tolist() + rng.exponential(size=(2, 50)).tolist()
    a, b = 37.0, -5.0
    moved = hellinger2(
        *(a * np.array(m0) + b, a * a * np.array(v0)), *(a * np.array(m1) + b, a * a * np.array(v1))
    )
    assert_allclose(moved, hellinger2(m0, v0, m1, v1), rtol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
def test_small_changes_keep_their_digits(size: float) -> None:
    """H2 = d^2 / 8 + l^2 / 4, also where 1 - H2 rounds to 1."""
    assert hellinger2(0, 1, size, 1) == pytest.approx(size**2 / 8, rel=1e-5)
    assert hellinger2(0, 1, 0, math.exp(2 * size)) == pytest.approx(size**2 / 4, rel=1e-5)


@pytest.mark.parametrize("values", [(0, 1e-300, 0, 1e300), (0, 1e-200, 1e150, 1e-200), (-1e200, 1, 1e200, 1)])
def test_far_apart_is_one(values: tuple[float, float, float, float]) -> None:
    assert hellinger2(*values) == 1.0


def test_nothing_is_said_of_moments_that_are_not_finite() -> None:
    assert np.isnan(hellinger2([math.nan, 0], [1, math.nan], [0, 0], [1, 1])).all()
    assert not np.isnan(hellinger2([math.nan, 0], [1, 1], [0, 0], [1, 1])[1])


def test_jeffreys_of_known_pairs() -> None:
    assert jeffreys(0, 1, 1, 1) == 1.0
    assert jeffreys(0, 1, 0, 4) == pytest.approx(0.5 * (4 + 0.25 - 2))
    assert_array_equal(jeffreys([1, 1, 1], [0, 0, 0], [1, 2, 1], [0, 0, 1]), [0, math.inf, math.inf])


def test_jeffreys_is_the_sum_of_both_divergences() -> None:
    def kl(m0: float, s0: float, m1: float, s1: float) -> float:
        def integrand(x: float) -> float:
            p = stats.norm.logpdf(x, m0, s0)
            return float(np.exp(p) * (p - stats.norm.logpdf(x, m1, s1)))

        return float(integrate.quad(integrand, -30, 30, epsabs=1e-12)[0])

    assert jeffreys(0.3, 1.5**2, -1, 0.8**2) == pytest.approx(
        kl(0.3, 1.5, -1, 0.8) + kl(-1, 0.8, 0.3, 1.5), rel=1e-7
    )


def test_components() -> None:
    assert_allclose(mean_shift([0, 0, 2], [1, 2, 0], [1, -3, 2], [1, 4, 0]), [1, -math.sqrt(3), 0])
    assert mean_shift(0, 0, 1, 0) == math.inf
    assert_allclose(scale_shift([1, 4, 0], [math.e**2, 1, 0]), [1, -math.log(2), 0])


@pytest.mark.parametrize(("distance", "sigmas"), [(0.02, 0.4), (0.005, 0.2), (0.0, 0.0), (-1e-18, 0.0)])
def test_equivalent_shift_of_a_mean(distance: float, sigmas: float) -> None:
    assert sigma_equiv(distance) == pytest.approx(sigmas)


@pytest.mark.parametrize(
    ("kurtosis", "draw"),
    [(3.0, lambda rng, n: rng.normal(size=n)), (1.8, lambda rng, n: rng.uniform(-1, 1, size=n))],
    ids=["normal", "uniform"],
)
def test_floor_is_what_sampling_alone_brings(kurtosis: float, draw) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    a, b = draw(rng, (256, 4000)), draw(rng, (512, 4000))
    found = hellinger2(a.mean(0), a.var(0), b.mean(0), b.var(0)).mean()
    assert found == pytest.approx(float(hellinger2_floor(256, 512, kurtosis)), rel=0.08)


def test_floor_of_two_equal_normal_samples_is_one_over_2n() -> None:
    assert hellinger2_floor(512, 512) == pytest.approx(1 / 1024)
    assert hellinger2_floor(512) == pytest.approx(1 / 2048)


@pytest.mark.parametrize(
    ("distance", "floor", "expected"), [(0.3, 0.0, 0.3), (0.1, 0.2, 0.0), (1.0, 0.2, 1.0), (1.0, 1.0, 0.0)]
)
def test_noise_is_taken_off(distance: float, floor: float, expected: float) -> None:
    assert debiased(distance, floor) == expected
