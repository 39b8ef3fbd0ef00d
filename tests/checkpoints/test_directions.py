"""Units that are multiples of each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nndiag.checkpoints.directions import FEWEST_DIMS, scaled_copies
from nndiag.statistics import RowSignature


def rows(units: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(units, width, generator=torch.Generator().manual_seed(0)).to(dtype)


def copies(matrix: Tensor) -> int:
    return scaled_copies(matrix, RowSignature.of(matrix))


@pytest.mark.parametrize("width", [FEWEST_DIMS, 32, 33, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multiples_are_counted(width: int, dtype: torch.dtype) -> None:
    matrix = rows(12, width, dtype)
    matrix[4:8] = 2.0 * matrix[:4]
    matrix[8] = 0.3 * matrix[0]
    assert copies(matrix) == 5


def test_equal_rows_are_no_multiples() -> None:
    """They are counted as equal already; a third that is twice as large is one more."""
    matrix = rows(12, 16)
    matrix[1] = matrix[0]
    assert copies(matrix) == 0
    matrix[2] = 2 * matrix[0]
    assert copies(matrix) == 1


def test_rows_of_the_other_sign_are_no_multiples() -> None:
    """Behind a ReLU they are on where the other is off."""
    matrix = rows(12, 16)
    matrix[1] = -2 * matrix[0]
    assert copies(matrix) == 0


def test_rows_next_to_zero_have_no_direction() -> None:
    matrix = rows(12, 16)
    matrix[1], matrix[2], matrix[3] = 1e-9 * matrix[0], 0.0, float("nan")
    assert copies(matrix) == 0


def test_few_numbers_have_few_directions() -> None:
    matrix = rows(12, FEWEST_DIMS - 1)
    matrix[1] = 2 * matrix[0]
    assert copies(matrix) == 0


@pytest.mark.parametrize("shape", [(4000, FEWEST_DIMS), (2000, 300)])
def test_random_rows_are_no_multiples(shape: tuple[int, int]) -> None:
    assert copies(rows(*shape)) == 0
