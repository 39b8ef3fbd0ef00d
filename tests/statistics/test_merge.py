"""Merging: what holds for the statistics of all parts together, for every registered statistic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from strategies import MAKERS, NEWEST, SUMMED, make, parts
from torch import Tensor

from nndiag.statistics import STATISTICS, Moments, Statistic

POOLED_WITHIN = {"disagreement": ("variance",)}
"""Fields that are taken about the mean of each part: sums over parts, not over the whole."""


def assert_same(got: Statistic, expected: Statistic, x: Tensor, skip: tuple[str, ...] = ()) -> None:
    """Counts are equal, sums are equal up to the rounding of sums of squares of ``x``."""
    finite = x[x.isfinite()]
    rounding = 1e-13 * float(finite.square().sum() + finite.abs().sum() + 1)
    for name, value in expected.to_tensors().items():
        if name in skip:
            continue
        mine = got.to_tensors()[name]
        if value.is_floating_point() and value.dtype == torch.float64:
            torch.testing.assert_close(mine, value, rtol=1e-9, atol=rounding, equal_nan=True, msg=name)
        else:
            torch.testing.assert_close(mine, value, rtol=1e-6, atol=0, equal_nan=True, msg=name)


def test_every_statistic_takes_part():
    assert set(MAKERS) == set(STATISTICS), "tests/strategies.py must say how each statistic is made"
    assert NEWEST < set(STATISTICS)


@pytest.mark.parametrize("name", sorted(STATISTICS))
@given(x=parts(empty=False))
def test_merge_is_associative(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, c = (make(name, part) for part in x)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)), torch.cat(x))


@pytest.mark.parametrize("name", SUMMED)
@given(x=parts(holes=True))
def test_merge_is_commutative(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b = make(name, x[0]), make(name, x[1])
    assert_same(a.merge(b), b.merge(a), torch.cat(x))


@pytest.mark.parametrize("name", SUMMED)
@given(x=parts(holes=True))
def test_parts_together_are_the_whole(name: str, x: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, c = (make(name, part) for part in x)
    whole = torch.cat(x)
    assert_same(a.merge(b).merge(c), make(name, whole), whole, POOLED_WITHIN.get(name, ()))


@pytest.mark.parametrize("name", SUMMED)
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


def test_unequal_parts_lose_nothing_to_rounding():
    x = torch.from_numpy(_far_from_zero()).reshape(-1, 1, 1)
    pieces = torch.split(x, [1, 2, 997, 3000, 5, 995])
    merged = Moments.of(pieces[0])
    for piece in pieces[1:]:
        merged = merged.merge(Moments.of(piece))
    expected = x.numpy().astype("longdouble").var()
    assert float(merged.variance) == pytest.approx(float(expected), rel=1e-9)


def _far_from_zero():
    import numpy as np

    return np.random.default_rng(0).normal(1e4, 1.0, 5000)
