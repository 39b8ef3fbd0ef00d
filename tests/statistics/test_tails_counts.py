"""Tails: exact counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor

from nndiag.functional import tail_edges
from nndiag.statistics import Tails


def normal(shape: tuple[int, ...] = (200, 6, 4)) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).float()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 0.5), (-1.0, None), (None, 0.5), (None, None)])
def test_counts_are_those_of_numpy(low: float | None, high: float | None) -> None:
    x = normal()
    x[::7, 1, 2] = torch.nan
    tails, raw = Tails.of(x, low, high), x.numpy()
    known = ~np.isnan(raw)
    below = known & (raw <= low) if low is not None else np.zeros_like(known)
    assert_array_equal(tails.n, known.sum((0, 1)))
    assert_array_equal(tails.low, below.sum((0, 1)))
    assert_array_equal(tails.high, (raw >= high).sum((0, 1)) if high is not None else [0] * 4)
    assert_array_equal(tails.on, (known & ~below).any(1).sum(0))
    assert tails.k == 200
    assert tails.fraction_low == pytest.approx(below.sum() / known.sum())


def test_an_edge_belongs_to_its_tail() -> None:
    tails = Tails.of(torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1), -1.0, 1.0)
    assert (tails.low.item(), tails.high.item(), tails.on.item()) == (1, 1, 2)


def test_infinite_entries_are_in_their_tails() -> None:
    tails = Tails.of(torch.tensor([-torch.inf, 0.0, torch.inf, torch.nan]).reshape(4, 1, 1), -1.0, 1.0)
    assert (tails.n.item(), tails.low.item(), tails.high.item()) == (3, 1, 1)


def test_sigmoid_and_tanh_of_half_are_saturated_alike() -> None:
    x = 4 * normal((500, 4, 3)).double()
    sigmoid = tail_edges("sigmoid", torch.sigmoid)
    half = tail_edges("tanh of half", lambda z: torch.tanh(z / 2))
    one, other = Tails.of(x, sigmoid.low, sigmoid.high), Tails.of(x, half.low, half.high)
    assert one.fraction_low > 0.1
    assert_array_equal(one.low, other.low)
    assert_array_equal(one.high, other.high)


def test_a_unit_is_dead_when_it_is_off_everywhere() -> None:
    x = -normal((50, 9, 3)).abs() - 0.1
    x[17, 4, 1] = 0.1
    tails = Tails.of(x, 0.0, None)
    assert tails.always_low.tolist() == [True, False, True]
    assert tails.on_rates == (0.0, 1 / 50, 0.0)


def test_a_unit_never_seen_is_not_dead() -> None:
    tails = Tails.of(torch.full((5, 1, 1), torch.nan), 0.0, None)
    assert tails.always_low.tolist() == [False]
    assert tails.entries == 1


def test_counts_do_not_stick_at_large_numbers() -> None:
    count = 2**24 + 5
    tails = Tails.of(torch.zeros(1, 1, 1).expand(count, 1, 1), 0.0, None)
    assert (tails.low.item(), tails.n.item(), tails.merge(tails).low.item()) == (count, count, 2 * count)


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2)])
def test_no_entries(shape: tuple[int, int, int]) -> None:
    tails = Tails.of(torch.zeros(shape), 0.0, 1.0)
    assert tails.n.tolist() == tails.low.tolist() == tails.high.tolist() == tails.on.tolist() == [0, 0]
    assert tails.fraction_low == tails.fraction_high == 0.0
