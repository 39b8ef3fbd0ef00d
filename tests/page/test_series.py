"""What a chart wants to know of a reading."""

from __future__ import annotations

import numpy as np
import pytest

from nndiag.page.series import Row, plain_numbers

NAN = np.nan


def row(values: list[list[float]], steps: list[int] | None = None) -> Row:
    """Layers by steps."""
    array = np.array(values, dtype="<f4")
    return Row(np.array(steps if steps is not None else range(array.shape[1]), dtype=np.int64), array)


def test_newest_values_and_their_steps() -> None:
    values, steps = row([[1, 2, NAN], [NAN, NAN, NAN], [NAN, NAN, 7]], [0, 5, 9]).newest()
    assert values == [2, None, 7]
    assert steps == [5, None, 9]


def test_a_row_without_steps() -> None:
    empty = Row(np.zeros(0, np.int64), np.zeros((3, 0), "<f4"))
    assert empty.newest() == ([], [])
    assert empty.extent() == {"low": None, "high": None, "smallest": None, "largest": None}
    assert empty.binned() is empty


def test_the_extent_leaves_out_what_is_not_finite() -> None:
    values = [*range(101), np.inf, -np.inf, NAN]
    assert row([[float(v) for v in values]]).extent() == {"low": 2, "high": 98, "smallest": 0, "largest": 100}


def test_bins_show_their_newest_visit() -> None:
    many = row([[float(step) for step in range(1000)]])
    binned = many.binned(10)
    assert binned.steps.tolist() == [99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    assert binned.values.tolist() == [binned.steps.tolist()]


def test_bins_are_equally_wide_in_steps() -> None:
    steps = [*range(100), 1000]
    binned = row([[float(step) for step in steps]], steps).binned(10)
    assert binned.steps.tolist() == [99, 1000]


@pytest.mark.parametrize(
    ("value", "plain"), [(1 / 3, 0.333333), (np.inf, "inf"), (-np.inf, "-inf"), (NAN, None), (0.0, 0.0)]
)
def test_numbers_as_json_knows_them(value: float, plain: float | str | None) -> None:
    assert plain_numbers(np.array([value])) == [plain]
