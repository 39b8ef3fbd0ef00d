"""TimeReach: the first quarter of a sequence against the last."""

from __future__ import annotations

import math

import pytest
import torch

from nndiag.statistics import TimeReach


def test_ratio_of_root_mean_squares() -> None:
    """Twelve steps of two inputs each: (3, 4) at the first three, (0, 10) at the last three."""
    gradient = torch.zeros(5, 12, 2)
    gradient[:, :3] = torch.tensor([3.0, 4.0])
    gradient[:, -3:, 1] = 10.0
    reach = TimeReach.of(gradient).cpu()
    assert (int(reach.samples), int(reach.steps)) == (5, 12)
    assert (float(reach.first), float(reach.last)) == (5 * 3 * 25, 5 * 3 * 100)
    assert reach.ratio == 0.5


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_of_any_size_are_kept(size: float) -> None:
    gradient = torch.ones(1, 8, 1)
    gradient[:, :2] *= size
    assert TimeReach.of(gradient).ratio == pytest.approx(size, rel=1e-6)


def test_nothing_has_no_ratio() -> None:
    assert math.isnan(TimeReach.of(torch.zeros(2, 8, 3)).ratio)
