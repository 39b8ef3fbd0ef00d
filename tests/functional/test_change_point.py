"""The place where a series of batches changes for good."""

from __future__ import annotations

import numpy as np
import pytest

from nndiag.functional import last_change


def series(count: int = 30, features: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of random batches of 50 samples around a profile over the features."""
    rng = np.random.default_rng(0)
    profile = rng.normal(size=features)
    return profile + rng.normal(size=(count, features)) / np.sqrt(50), np.ones((count, features))


def test_random_batches_do_not_divide() -> None:
    """The best of all divisions takes 2 / B of the variance, about."""
    found = last_change(*series())
    assert found is not None
    assert found.share < 0.2
    assert found.apart < 0.3


@pytest.mark.parametrize("since", [2, 5, 12])
def test_turned_signs_are_a_map_of_slope_minus_one(since: int) -> None:
    means, variances = series()
    means[-since:] *= -1
    found = last_change(means, variances)
    assert found is not None
    assert found.after == since
    assert found.share > 0.6
    assert found.agreement < -0.98
    assert found.slope == pytest.approx(-1, abs=0.1)


def test_a_missing_division_is_a_map_of_that_slope() -> None:
    means, variances = series()
    means[-4:] *= 255
    found = last_change(means, variances)
    assert found is not None
    assert found.slope == pytest.approx(255, rel=0.05)
    assert found.agreement > 0.98


def test_a_trend_is_no_division_into_two() -> None:
    """Of a straight line, the halves take three quarters: 1/4 of the range apart, on each side, over 1/12."""
    means = np.linspace(0, 1, 100)[:, None] * np.ones((1, 3))
    found = last_change(means, np.ones_like(means))
    assert found is not None
    assert found.share == pytest.approx(0.75, abs=0.01)


def test_other_samples_are_no_map_of_the_old_ones() -> None:
    means, variances = series()
    means[-5:] += np.random.default_rng(1).normal(size=means.shape[1])
    found = last_change(means, variances)
    assert found is not None
    assert found.share > 0.5
    assert abs(found.agreement) < 0.95


@pytest.mark.parametrize("count", [0, 1, 9])
def test_few_batches_say_nothing(count: int) -> None:
    means, variances = series(count)
    assert last_change(means, variances) is None


def test_batches_of_one_sample_have_no_spread_to_measure_by() -> None:
    means, variances = series()
    means[-4:] += 100
    found = last_change(means, 0 * variances)
    assert found is not None
    assert found.apart == 0
