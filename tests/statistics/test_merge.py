"""Merging: what holds for the statistics of all parts together, for every registered statistic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import IN_ORDER, MAKERS, NEWEST, OF_BATCHES, SUMMED, make, parts
from torch import Tensor

from nndiag.statistics import STATISTICS, Moments, Statistic


def assert_same(got: Statistic, expected: Statistic, x: Tensor) -> None:
    """Counts are equal, sums are equal up to the rounding of sums of squares of ``x``."""
    finite = x[x.isfinite()]
    rounding = 1e-13 * float(finite.square().sum() + finite.abs().sum() + 1)
    for name, value in expected.to_tensors().items():
        mine = got.to_tensors()[name]
        if value.is_floating_point() and value.dtype == torch.float64:
            torch.testing.assert_close(mine, value, rtol=1e-9, atol=rounding, equal_nan=True, msg=name)
        else:
            torch.testing.assert_close(mine, value, rtol=1e-6, atol=0, equal_nan=True, msg=name)


NEEDS_SAMPLES = ("feature_scales",)
"""Statistics that cannot be made of nothing."""


def test_every_statistic_takes_part() -> None:
    missing, gone = set(STATISTICS) - set(MAKERS), set(MAKERS) - set(STATISTICS)
    assert not missing, f"say in MAKERS of tests/strategies.py how {sorted(missing)} are made from a view"
    assert not gone, f"remove {sorted(gone)} from tests/strategies.py"
    assert set(STATISTICS) >= NEWEST | IN_ORDER | OF_BATCHES


@pytest.mark.parametrize("name", sorted(MAKERS))
@given(x=parts(empty=False))
def test_merge_is_associative(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, c = (make(name, part) for part in x)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)), torch.cat(x))


@pytest.mark.parametrize("name", sorted({*SUMMED, *OF_BATCHES}))
@given(x=parts(holes=True, empty=False))
def test_merge_is_commutative(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b = make(name, x[0]), make(name, x[1])
    assert_same(a.merge(b), b.merge(a), torch.cat(x))


@pytest.mark.parametrize("name", SUMMED)
@given(x=parts(holes=True, empty=False))
def test_parts_together_are_the_whole(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, c = (make(name, part) for part in x)
    whole = torch.cat(x)
    assert_same(a.merge(b).merge(c), make(name, whole), whole)


@pytest.mark.parametrize("name", sorted(set(SUMMED) - set(NEEDS_SAMPLES)))
@given(x=parts(empty=False))
def test_no_samples_are_the_identity(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    some, none = make(name, x[0]), make(name, x[0][:0])
    assert_same(some.merge(none), some, x[0])
    assert_same(none.merge(some), some, x[0])


@pytest.mark.parametrize("name", sorted(NEWEST))
@given(x=parts(empty=False))
def test_the_newer_reading_of_a_parameter_stands(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    older, newer = make(name, x[0]), make(name, x[1])
    assert older.merge(newer) is newer


@pytest.mark.parametrize("name", sorted(IN_ORDER))
@given(x=parts(empty=False))
def test_batches_stay_in_order(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, c = (make(name, part) for part in x)
    merged = a.merge(b).merge(c)
    assert merged.batches == 3
    for field, rows in merged.to_tensors().items():
        for row, part in zip(rows, (a, b, c), strict=True):
            own = getattr(part, field)[0]
            width = own.shape[0] if own.dim() else None
            torch.testing.assert_close(row[:width] if own.dim() else row, own, rtol=0, atol=0)


def test_unequal_parts_lose_nothing_to_rounding() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(1e4, 1.0, 5000)).reshape(-1, 1, 1)
    pieces = torch.split(x, [1, 2, 997, 3000, 5, 995])
    merged = Moments.of(pieces[0])
    for piece in pieces[1:]:
        merged = merged.merge(Moments.of(piece))
    expected = x.numpy().astype("longdouble").var()
    assert float(merged.variance) == pytest.approx(float(expected), rel=1e-9)
