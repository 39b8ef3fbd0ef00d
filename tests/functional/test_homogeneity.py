"""Whether batches are alike: hand-worked cases, references, and what shuffling and sorting give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nndiag.functional import homogeneity, label_dispersion


def of(batches: object) -> tuple[float, float]:
    """F and ICC of batches of one feature."""
    x = np.asarray(batches, dtype=float)
    found = homogeneity([x.shape[1]] * len(x), x.mean(1)[:, None], x.var(1, ddof=1)[:, None])
    assert found is not None
    return found.f, found.icc


@pytest.mark.parametrize(
    ("batches", "f", "icc"),
    [
        ([[0, 1], [1, 2]], 2.0, 1 / 3),
        ([[0, 0], [1, 1]], np.inf, 1.0),
        ([[0, 1], [0, 1]], 0.0, -1.0),
    ],
)
def test_worked_by_hand(batches: object, f: float, icc: float) -> None:
    assert of(batches) == pytest.approx((f, icc))


def test_f_is_that_of_a_one_way_analysis_of_variance() -> None:
    """Also with batches of unequal size."""
    rng = np.random.default_rng(0)
    groups = [rng.normal(loc=rng.normal(), size=size) for size in (5, 9, 7, 2)]
    found = homogeneity(
        [len(g) for g in groups], [[g.mean()] for g in groups], [[g.var(ddof=1)] for g in groups]
    )
    assert found is not None
    assert found.f == pytest.approx(stats.f_oneway(*groups).statistic)


def test_single_samples_carry_no_variance_within() -> None:
    full = homogeneity([4, 4, 1], [[0.0], [1.0], [0.5]], [[1.0], [1.0], [np.nan]])
    assert full is not None
    assert np.isfinite(full.f)
    assert homogeneity([1, 1], [[0.0], [1.0]], [[0.0], [0.0]]) is None
    assert homogeneity([4], [[0.0]], [[1.0]]) is None
    assert homogeneity([4, 4], [[1.0], [1.0]], [[0.0], [0.0]]) is None


@pytest.mark.parametrize("size", [8, 32, 128])
def test_correlation_does_not_depend_on_batch_size(size: int) -> None:
    """Two components of variance, 1 between and 2 within: 1/3, whatever the size."""
    rng = np.random.default_rng(size)
    x = rng.normal(size=(60, 1, 30)) + np.sqrt(2) * rng.normal(size=(60, size, 30))
    found = homogeneity([size] * 60, x.mean(1), x.var(1, ddof=1))
    assert found is not None
    assert found.icc == pytest.approx(1 / 3, abs=0.02)
    assert found.z > 20


def test_z_of_random_batches_is_standard_normal_also_with_correlated_features() -> None:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(20, 20)) * np.exp(-np.arange(20) / 4)
    zs = []
    for _ in range(200):
        x = rng.normal(size=(40, 16, 20)) @ mixing
        found = homogeneity([16] * 40, x.mean(1), x.var(1, ddof=1))
        assert found is not None
        zs.append(found.z)
    assert abs(np.mean(zs)) < 0.25
    assert 0.7 < np.std(zs) < 1.4


def test_dispersion_is_pearsons_chi_square() -> None:
    table = np.random.default_rng(0).integers(1, 20, (8, 5))
    reference = stats.chi2_contingency(table)
    found = label_dispersion(table)
    assert found is not None
    assert found.ratio == pytest.approx(reference.statistic / reference.dof)
    assert found.freedom == reference.dof


def test_dispersion_of_samplers() -> None:
    rng = np.random.default_rng(0)
    random = rng.multinomial(32, np.full(10, 0.1), size=40)
    stratified = np.full((40, 10), 3)
    single = 32 * np.eye(10, dtype=int)[rng.integers(10, size=40)]
    ratios = [label_dispersion(table) for table in (random, stratified, single)]
    assert ratios[0] is not None
    assert ratios[1] is not None
    assert ratios[2] is not None
    assert ratios[0].ratio == pytest.approx(1.0, abs=0.2)
    assert ratios[1].ratio == 0.0
    # With one label a batch chi-square is N (K - 1), N in all: 32 * 40 * 9 over 39 * 9.
    assert ratios[2].ratio == pytest.approx(32 * 40 / 39)
    assert ratios[2].classes == 1.0


def test_labels_never_seen_and_empty_batches_do_not_count() -> None:
    table = [[3, 0, 5], [0, 0, 0], [4, 0, 4]]
    assert label_dispersion(table) == label_dispersion([[3, 5], [4, 4]])
    assert label_dispersion([[3, 0], [4, 0]]) is None
