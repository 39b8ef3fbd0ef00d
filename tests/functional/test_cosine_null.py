"""The most alike pair of random directions: exact values, SciPy, and a small simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nndiag.functional import max_cosine_pvalue, max_cosine_quantile


@pytest.mark.parametrize(
    ("units", "dims", "expected"),
    [(64, 64, 0.532464), (64, 65, 0.528912), (256, 784, 0.181459), (16, 10, 0.913787), (512, 513, 0.234318)],
)
def test_exact_quantiles_at_one_percent(units: int, dims: int, expected: float) -> None:
    assert max_cosine_quantile(units, dims, 0.01) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3, 10, 64, 784])
@pytest.mark.parametrize("cosine", [0.01, 0.2, 0.7, 0.999])
def test_one_pair_follows_the_beta_law(dims: int, cosine: float) -> None:
    tail = stats.beta.sf(cosine**2, 0.5, (dims - 1) / 2)
    assert max_cosine_pvalue(cosine, 2, dims) == pytest.approx(-math.expm1(-tail), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.01, 0.5])
@pytest.mark.parametrize(("units", "dims"), [(2, 5), (64, 65), (1024, 4096)])
def test_quantile_is_the_inverse_of_the_p_value(units: int, dims: int, alpha: float) -> None:
    cosine = max_cosine_quantile(units, dims, alpha)
    if cosine > 0:
        assert max_cosine_pvalue(cosine, units, dims) == pytest.approx(alpha, rel=1e-6)


def test_more_units_and_fewer_dimensions_bring_units_closer() -> None:
    by_units = [max_cosine_quantile(units, 50, 0.01) for units in (2, 8, 64, 1024)]
    by_dims = [max_cosine_quantile(64, dims, 0.01) for dims in (2, 8, 64, 1024)]
    assert by_units == sorted(by_units)
    assert by_dims == sorted(by_dims, reverse=True)


@pytest.mark.parametrize("dims", [0, 1])
def test_in_one_dimension_all_directions_are_alike(dims: int) -> None:
    assert max_cosine_quantile(5, dims, 0.01) == 1.0
    assert max_cosine_pvalue(1.0, 5, dims) == 1.0


def test_the_ends() -> None:
    assert max_cosine_pvalue(0.0, 64, 64) == pytest.approx(1.0)
    assert max_cosine_pvalue(1.0 + 1e-9, 64, 64) == 0.0
    assert max_cosine_quantile(2, 10, 0.99) == 0.0


@pytest.mark.parametrize(("units", "dims"), [(12, 8), (20, 40)])
def test_agrees_with_a_simulation(units: int, dims: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, units, dims))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    cosines = np.abs(x @ x.transpose(0, 2, 1))
    cosines[:, np.arange(units), np.arange(units)] = 0
    largest = cosines.max((1, 2))
    p = [max_cosine_pvalue(float(cosine), units, dims) for cosine in largest]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    for alpha in (0.05, 0.5):
        above = int((largest > max_cosine_quantile(units, dims, alpha)).sum())
        assert stats.binomtest(above, 600, alpha).pvalue > 1e-3
