"""Histogram: the counts of NumPy in signed logarithmic bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal
from strategies import views
from torch import Tensor

from nndiag.statistics import Histogram
from nndiag.statistics.sample import strided_sample


def test_edges_are_ascending_quarter_octaves() -> None:
    edges = np.array(Histogram.edges())
    assert len(edges) == 322
    assert (np.diff(edges) > 0).all()
    assert_allclose(edges[161:], 2.0 ** np.arange(-20, 20.01, 0.25))
    assert_allclose(edges, -edges[::-1])


@given(x=views())
def test_counts_are_those_of_numpy(x: Tensor) -> None:
    counts, _ = np.histogram(x.numpy(), bins=Histogram.edges())
    if not np.isin(np.abs(x.numpy()), Histogram.edges()).any():
        assert_array_equal(Histogram.of(x).counts, counts)
    assert int(Histogram.of(x).counts.sum()) == x.numel()


@given(x=views(holes=True))
def test_sums_and_extremes_are_those_of_the_finite_entries(x: Tensor) -> None:
    histogram, finite = Histogram.of(x), x[x.isfinite()].numpy()
    assert int(histogram.counts.sum()) == len(finite)
    assert_allclose(histogram.total, finite.sum(), rtol=1e-9, atol=1e-9)
    assert_allclose(histogram.squares, np.square(finite).sum(), rtol=1e-9)
    assert (float(histogram.minimum), float(histogram.maximum)) == (finite.min(), finite.max())


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (0.0, 160),
        (1e-45, 160),
        (-1e-45, 160),
        (1.0, 241),
        (-1.0, 79),
        (3e38, 320),
        (-3e38, 0),
        (2.0**-20, 161),
    ],
)
def test_place_of_a_number(value: float, place: int) -> None:
    counts = Histogram.of(torch.tensor([[[value]]])).counts
    assert counts.nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("x", [torch.zeros(0, 2, 3), torch.full((2, 1, 3), torch.nan)], ids=["empty", "nan"])
def test_nothing_finite_leaves_the_extremes_open(x: Tensor) -> None:
    histogram = Histogram.of(x)
    assert int(histogram.counts.sum()) == 0
    assert (float(histogram.minimum), float(histogram.maximum)) == (np.inf, -np.inf)
    merged = histogram.merge(Histogram.of(torch.tensor([[[2.0]], [[3.0]]])))
    assert (float(merged.minimum), float(merged.maximum)) == (2.0, 3.0)


@pytest.mark.parametrize("shape", [(1000, 64), (4097, 1), (640, 7, 9), (100, 4096), (5, 5)])
def test_a_large_tensor_is_sampled_evenly(shape: tuple[int, ...]) -> None:
    x = torch.arange(float(np.prod(shape)), dtype=torch.float64).reshape(shape)
    sample = strided_sample(x, 4096)
    assert min(x.numel(), 2048) <= len(sample) <= 4096
    assert sample.unique().numel() == len(sample)
    columns = (sample % shape[-1]).unique().numel()
    assert columns == min(shape[-1], len(sample)), "each unit is read"


def test_a_large_tensor_keeps_its_shape_in_the_sample() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5000, 1, 8)))
    histogram = Histogram.of(x)
    count = int(histogram.counts.sum())
    assert 2048 <= count <= 4096
    assert float(histogram.squares) / count == pytest.approx(1.0, abs=0.1)
