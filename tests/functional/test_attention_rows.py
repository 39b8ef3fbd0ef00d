"""Sharpness of attention rows: closed forms and scipy.stats.entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nndiag.functional import jacobian_share, normalized_entropy


@pytest.mark.parametrize(
    ("row", "keys", "entropy", "share"),
    [
        ([0.25, 0.25, 0.25, 0.25], 4, 1.0, 1.0),
        ([0.0, 1.0, 0.0, 0.0], 4, 0.0, 0.0),
        ([0.5, 0.5, 0.0, 0.0], 4, 0.5, 2 / 3),
        ([0.5, 0.5, 0.0, 0.0], 2, 1.0, 1.0),
    ],
    ids=["uniform", "one key", "two of four", "two of the two it may see"],
)
def test_closed_forms(row: list[float], keys: int, entropy: float, share: float) -> None:
    assert normalized_entropy(row, keys) == pytest.approx(entropy, abs=1e-12)
    assert jacobian_share(row, keys) == pytest.approx(share, abs=1e-6)


def test_entropy_is_that_of_scipy() -> None:
    rows = np.random.default_rng(0).dirichlet(np.full(9, 0.3), 50)
    for row in rows:
        assert normalized_entropy(row, 9) == pytest.approx(stats.entropy(row) / math.log(9))


def test_share_is_that_of_the_trace_of_the_jacobian() -> None:
    row = np.random.default_rng(0).dirichlet(np.ones(5))
    trace = np.trace(np.diag(row) - np.outer(row, row))
    uniform = np.trace(np.eye(5) / 5 - np.full((5, 5), 1 / 25))
    assert jacobian_share(row, 5) == pytest.approx(trace / uniform)
