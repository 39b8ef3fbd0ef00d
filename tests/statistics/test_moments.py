"""Moments against NumPy in double precision, on the same stored numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from nndiag.statistics import Moments, Rows, canonical

SAMPLES, POSITIONS, UNITS = 301, 7, 5
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def normal(mean: float = 0.0, sd: float = 1.0, *, shape: tuple[int, ...] | None = None) -> Tensor:
    """Positions of one sample are alike: their mean is not n times better known than one of them."""
    rng = np.random.default_rng(0)
    size = shape or (SAMPLES, POSITIONS, UNITS)
    own, shared = rng.standard_normal(size), rng.standard_normal((size[0], 1, size[2]))
    return torch.from_numpy(mean + sd * (0.6 * own + 0.8 * shared))


def view(x: Tensor) -> Tensor:
    """The canonical view of a batch of sequences."""
    found = canonical(x, unit_axis=-1, rows=Rows(0, 1, "sample"))
    assert isinstance(found, Tensor)
    return found


def assert_agrees(moments: Moments, stored: np.ndarray, rtol: float = 1e-6) -> None:
    """Every field against NumPy; NaN and infinities count as absent."""
    finite = np.where(np.isfinite(stored), stored, np.nan).astype(np.longdouble)
    per_sample = np.nanmean(finite, axis=1)
    samples = len(stored)
    sd = np.nanstd(finite, axis=(0, 1))
    assert_allclose(moments.n, np.isfinite(stored).sum((0, 1)))
    assert_allclose(moments.non_finite, (~np.isfinite(stored)).sum((0, 1)))
    assert int(moments.k) == samples
    slack = rtol * np.maximum(sd, np.abs(np.nanmean(finite, axis=(0, 1))) * 1e-6).astype(float)
    assert (np.abs(moments.mean.numpy() - np.nanmean(finite, axis=(0, 1)).astype(float)) <= slack).all()
    assert (np.abs(moments.cluster_mean.numpy() - per_sample.mean(0).astype(float)) <= slack).all()
    assert_allclose(moments.variance, np.nanvar(finite, axis=(0, 1)).astype(float), rtol=rtol)
    assert_allclose(moments.sample_variance, per_sample.var(0, ddof=1).astype(float), rtol=rtol)
    assert_allclose(moments.se2, (per_sample.var(0, ddof=1) / samples).astype(float), rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(("mean", "sd"), [(0, 1), (1000, 0.1), (-3, 50), (50, 0.1), (1e4, 1)])
def test_agrees_with_numpy(dtype: torch.dtype, mean: float, sd: float) -> None:
    x = normal(mean, sd).to(dtype)
    assert_agrees(Moments.of(view(x)), x.double().numpy())


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e-10, 1e10, 1e25, 3e37])
def test_agrees_with_numpy_at_any_scale(scale: float) -> None:
    x = normal(0.3 * scale, scale).float()
    assert x.isfinite().all()
    moments = Moments.of(x)
    assert_agrees(moments, x.double().numpy())
    expected = np.mean(np.square(x.double().numpy()))
    assert moments.mean_square == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-140, 1e140])
def test_agrees_with_numpy_at_any_scale_in_double_precision(scale: float) -> None:
    x = normal(0, scale)
    assert_agrees(Moments.of(x), x.numpy(), rtol=1e-12)


def test_smallest_numbers_are_not_lost() -> None:
    x = torch.tensor([1e-45, 3e-45, 4e-45, 7e-45]).reshape(4, 1, 1)
    assert float(Moments.of(x).mean) == pytest.approx(float(x.double().mean()), rel=1e-6)


def test_spread_far_from_zero_is_not_lost() -> None:
    x = normal(1000, 0.1).float()
    naive = (x.square().mean((0, 1)) - x.mean((0, 1)).square()).double().numpy()
    truth = x.double().numpy().var((0, 1))
    assert (np.abs(naive / truth - 1) > 0.5).any(), "the reason for two passes"
    assert_allclose(Moments.of(x).variance, truth, rtol=1e-6)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("mean", "sd"), [(0, 1), (1000, 0.1)])
def test_non_finite_entries_are_counted_and_left_out(hole: float, mean: float, sd: float) -> None:
    x = normal(mean, sd).float()
    where = np.random.default_rng(1).random(x.shape) < 0.1
    where[:, 0] = False
    x[torch.from_numpy(where)] = hole
    assert_agrees(Moments.of(x), x.double().numpy())


def test_a_sum_that_overflows_is_no_infinite_entry() -> None:
    x = torch.full((4, 1, 2), 3e38)
    moments = Moments.of(x)
    assert moments.non_finite.tolist() == [0, 0]
    assert_allclose(moments.mean, x[0, 0].double())


def test_nothing_finite_at_all() -> None:
    moments = Moments.of(torch.full((3, 2, 2), torch.nan))
    assert moments.n.tolist() == [0, 0]
    assert moments.non_finite.tolist() == [6, 6]
    assert moments.mean.tolist() == moments.variance.tolist() == [0.0, 0.0]
    assert moments.mean_square == 0.0


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (0, 0, 2), (3, 2, 0)])
def test_no_entries(shape: tuple[int, int, int]) -> None:
    moments = Moments.of(torch.zeros(shape))
    assert moments.n.tolist() == [0] * shape[-1]
    assert moments.mean.tolist() == moments.m2.tolist() == moments.cluster_m2.tolist() == [0.0] * shape[-1]
    assert moments.mean_square == 0.0


def test_one_sample_has_no_standard_error() -> None:
    moments = Moments.of(normal(shape=(1, 7, 2)))
    assert moments.se2.tolist() == [0.0, 0.0]
    assert (moments.variance > 0).all()


def test_constant_units_have_no_variance() -> None:
    moments = Moments.of(torch.full((50, 3, 2), 0.1))
    assert moments.variance.tolist() == [0.0, 0.0]
    assert_allclose(moments.mean, 0.1, rtol=1e-7)


@pytest.mark.parametrize(
    "strided",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
        lambda x: torch.stack([x, -x], dim=-1)[..., 0],
        lambda x: torch.cat([x, x])[: len(x)].flip(0),
    ],
    ids=["positions first", "units first", "every second", "flipped"],
)
def test_strides_do_not_matter(strided) -> None:
    x = normal(5, 2).float()
    assert_agrees(Moments.of(strided(x)), x.double().numpy())


def test_broadcast_entries_are_read() -> None:
    x = torch.arange(3.0).reshape(3, 1, 1).expand(3, 4, 2)
    assert_agrees(Moments.of(x), x.double().numpy())


def test_positions_of_a_sample_are_one_witness() -> None:
    x = normal(shape=(400, 1, 3)).expand(400, 16, 3)
    moments = Moments.of(x)
    assert_allclose(moments.effective_samples, np.full(3, 399.0), rtol=1e-9)


def test_independent_positions_are_many_witnesses() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2000, 16, 3)))
    assert_allclose(Moments.of(x).effective_samples, np.full(3, 2000 * 16), rtol=0.1)


@pytest.mark.parametrize(
    ("dtype", "resolution"),
    [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11), (torch.float32, 2.0**-24)],
    ids=["bf16", "fp16", "fp32"],
)
def test_resolution_limit(dtype: torch.dtype, resolution: float) -> None:
    sd = torch.tensor([0.9, 1.1], dtype=torch.float64) * resolution
    x = torch.stack([1 - sd, 1 + sd]).unsqueeze(1)
    assert Moments.of(x).resolution_limited(dtype).tolist() == [True, False]


def test_second_moment_of_all_units_together() -> None:
    x = normal(3, 2)
    assert Moments.of(x).mean_square == pytest.approx(float((x.numpy() ** 2).mean()), rel=1e-12)
