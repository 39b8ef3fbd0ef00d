"""Orbits: classes of equal rows, the symmetry index, and the fate of duplicated units."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiag.functional import equal_rows, judge_units, symmetry_index
from nndiag.functional.orbits import Floats

seeds = st.integers(0, 2**32 - 1)


def partition(labels: np.ndarray) -> list[int]:
    seen: dict[int, int] = {}
    return [seen.setdefault(int(label), len(seen)) for label in labels]


@pytest.mark.parametrize(
    ("labels", "classes", "index", "entropy_index", "effective", "pair_share"),
    [
        ([0, 0, 1, 1, 2, 2, 3, 3], 4, 4 / 7, 1 / 3, 4.0, 1 / 7),
        ([0] * 8, 1, 1.0, 1.0, 1.0, 1.0),
        (list(range(8)), 8, 0.0, 0.0, 8.0, 0.0),
        ([5], 1, 0.0, 0.0, 1.0, 0.0),
        ([], 0, 0.0, 0.0, 0.0, 0.0),
        ([7, 7, 7, 2], 2, 2 / 3, 1 - (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4),
         math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), 0.5),
    ],
    ids=["four pairs", "all equal", "all distinct", "one unit", "no unit", "three and one"],
)  # fmt: skip
def test_symmetry_index(labels, classes, index, entropy_index, effective, pair_share) -> None:
    found = symmetry_index(np.array(labels, dtype=np.int64))
    assert (found.units, found.classes) == (len(labels), classes)
    assert found.index == pytest.approx(index, abs=1e-12)
    assert found.entropy_index == pytest.approx(entropy_index, abs=1e-12)
    assert found.effective == pytest.approx(effective, abs=1e-9)
    assert found.pair_share == pytest.approx(pair_share, abs=1e-12)


@given(labels=st.lists(st.integers(0, 5), min_size=2, max_size=30), seed=seeds)
def test_symmetry_index_knows_neither_order_nor_names(labels: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    plain = symmetry_index(np.array(labels))
    renamed = symmetry_index(rng.permutation(100)[rng.permutation(labels)])
    assert (renamed.classes, renamed.index, renamed.pair_share) == (
        plain.classes,
        plain.index,
        plain.pair_share,
    )
    assert renamed.effective == pytest.approx(plain.effective)
    assert 0 <= plain.index <= 1
    assert plain.effective <= plain.classes + 1e-9


@given(seed=seeds, tolerance=st.sampled_from([0.0, 1e-6, 1e-2]))
def test_far_apart_clusters_are_the_classes(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    centers, dims = int(rng.integers(1, 12)), int(rng.integers(1, 30))
    truth = rng.integers(0, centers, 40)
    places = np.arange(centers)[:, None] * 10.0 + rng.random((centers, dims))
    jitter = rng.standard_normal((40, dims))
    jitter /= np.linalg.norm(jitter, axis=1, keepdims=True)
    rows = places[truth] + 0.49 * tolerance * jitter
    assert partition(equal_rows(rows, tolerance)) == partition(truth)


@given(seed=seeds)
def test_every_row_is_near_one_representative_of_its_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, tolerance = rng.random((60, 2)), 0.2
    labels = equal_rows(rows, tolerance)
    apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        centers = members[(apart[np.ix_(members, members)] <= tolerance).all(1)]
        assert len(centers), "someone is within the tolerance of all"
    assert sorted(set(labels)) == list(range(labels.max() + 1))


def chain(links: int, spacing: float) -> Floats:
    """Rows on a line, each a little further than the one before."""
    direction = np.random.default_rng(5).standard_normal(16)
    return np.outer(np.arange(links) * spacing, direction / np.linalg.norm(direction))


@pytest.mark.parametrize(("spacing", "in_a_class"), [(0.9, 2), (0.51, 2), (0.45, 3), (0.3, 4), (1.01, 1)])
def test_a_chain_of_near_equal_rows_does_not_become_one_class(spacing: float, in_a_class: int) -> None:
    links = 60
    labels = equal_rows(chain(links, spacing), 1.0)
    assert len(set(labels)) == math.ceil(links / in_a_class)
    assert np.bincount(labels).max() == in_a_class


@pytest.mark.parametrize(("units", "dims"), [(7, 13), (33, 513), (101, 784), (4096, 3)], ids=lambda v: str(v))
def test_identical_rows_are_equal_at_tolerance_zero(units: int, dims: int) -> None:
    row = np.random.default_rng(1).standard_normal(dims)
    assert set(equal_rows(np.tile(row, (units, 1)), 0.0)) == {0}


def test_no_rows_and_no_columns() -> None:
    assert equal_rows(np.zeros((0, 3)), 1.0).tolist() == []
    assert equal_rows(np.zeros((3, 0)), 1.0).tolist() == [0, 0, 0]


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the norms that are taken: one a comparison."""
    counted = [0]
    plain = np.linalg.norm

    def norm(x, *args, **kwargs):
        counted[0] += 1
        return plain(x, *args, **kwargs)

    monkeypatch.setattr(np.linalg, "norm", norm)
    return counted


@pytest.mark.parametrize(
    ("rows", "tolerance", "classes"),
    [
        (np.ones((4096, 8)), 1e-6, 1),
        (np.random.default_rng(0).standard_normal((4096, 64)), 1e-6, 4096),
        (np.random.default_rng(0).standard_normal((4096, 64)), 0.016, 4096),
        (np.repeat(np.random.default_rng(0).standard_normal((2048, 64)), 2, axis=0), 1e-6, 2048),
    ],
    ids=["identical", "distinct", "distinct, loose", "pairs"],
)
def test_a_row_is_compared_once_at_most(rows, tolerance, classes, comparisons: list[int]) -> None:
    labels = equal_rows(rows, tolerance)
    axes = 2
    assert comparisons[0] <= len(rows) + axes
    assert len(set(labels)) == classes


@pytest.mark.parametrize(("spacing", "classes"), [(0.9, 2048), (1.01, 4096), (0.001, 5)])
def test_a_row_of_a_chain_is_compared_with_its_neighbors_only(
    spacing: float, classes: int, comparisons: list[int]
) -> None:
    labels = equal_rows(chain(4096, spacing), 1.0)
    assert comparisons[0] <= 4 * 4096
    assert len(set(labels)) == classes


@pytest.mark.parametrize(
    ("weights", "joint", "norms", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], [1, 1, 1], (3, 0, 0, 0)),
        ([0, 0, 1], [0, 0, 1], [1, 1, 1], (2, 2, 0, 0)),
        ([0, 0, 1], [0, 1, 2], [1, 1, 1], (2, 0, 0, 2)),
        ([0, 0, 1], [0, 0, 1], [0, 0, 1], (2, 0, 2, 0)),
        ([0, 0, 1], [0, 1, 2], [0, 1, 1], (2, 0, 1, 1)),
        ([0, 0, 0, 0], [0, 0, 1, 2], [1, 1, 2, 3], (1, 2, 0, 2)),
        ([0, 0], [0, 0], [1e-10, 1e-10], (1, 0, 2, 0)),
        ([0, 0, 1], [0, 0, 1], [1e-6, 1e-6, 1e4], (2, 0, 2, 0)),
        ([0, 1], [0, 0], [1, 1], (2, 0, 0, 0)),
        ([], [], [], (0, 0, 0, 0)),
    ],
    ids=["distinct", "locked", "healing", "stuck", "one stuck", "part locked", "tiny gradients",
         "tiny beside the largest", "gradients alone", "no units"],
)  # fmt: skip
def test_fate_of_duplicated_units(weights, joint, norms, expected) -> None:
    verdict = judge_units(
        np.array(weights, dtype=np.int64), np.array(joint, dtype=np.int64), np.array(norms, dtype=float)
    )
    assert (verdict.distinct, verdict.locked, verdict.stuck, verdict.healing) == expected
    assert verdict.units == len(weights)
