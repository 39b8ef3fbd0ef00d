"""Every statistic agrees with NumPy in extended precision to 1e-6, on the very numbers that a tensor holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nndiag.statistics import (
    BatchDrift,
    BatchMeans,
    FeatureScales,
    Histogram,
    Moments,
    ParameterFlow,
    Reduction,
    Rows,
    RowSignature,
    Running,
    SampleScales,
    Spectrum,
    Tails,
    UpdateSize,
    WeightLaw,
    canonical,
    centered,
)

Wide = NDArray[np.longdouble]

LIMIT = 1e-6
SAMPLES, POSITIONS, UNITS = 64, 9, 6
SHAPE = (SAMPLES, POSITIONS, UNITS)

FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16

CASES: dict[str, tuple[torch.dtype, float, float]] = {
    # name: number format, mean in standard deviations, scale
    **{f"{name} {mean:g} sd": (dtype, mean, 1.0)
       for name, dtype in (("fp32", FLOAT32), ("bf16", BFLOAT16))
       for mean in (0, 1e4, 1e6)},
    **{f"{name} {mean:g} sd at {scale:g}": (dtype, mean, scale)
       for name, dtype in (("fp32", FLOAT32), ("bf16", BFLOAT16))
       for mean in (0, 1e6)
       for scale in (1e25, 1e-25)},
    **{f"fp16 {mean:g} sd at {scale:g}": (FLOAT16, mean, scale)
       for mean, scale in ((0, 1), (0, 3e3), (0, 1e-5), (1e4, 1), (1e4, 1e-3))},
}  # fmt: skip


def numbers(case: str) -> Tensor:
    """[N, S, C] of one case."""
    dtype, mean, scale = CASES[case]
    x = np.random.default_rng(0).standard_normal(SHAPE)
    x = x * [1, 0.5, 2, 1, 3, 1] + [0.3, -0.5, 1, 0.2, 2, -1]
    stored = torch.from_numpy((mean + x) * scale).to(dtype)
    assert stored.isfinite().all()
    assert (stored != 0).any()
    return stored


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "positions first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "units first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "every second": lambda x: torch.stack([x, -x], dim=-1)[..., 0],
    "reversed": lambda x: x.flip(0).contiguous().flip(0),
}


def held(x: Tensor) -> Wide:
    """The numbers that a tensor holds."""
    return x.double().numpy().astype(np.longdouble)


def view(x: Tensor) -> Tensor:
    """The canonical view, samples first and units last."""
    found = canonical(x, unit_axis=-1, rows=Rows(0, 1, "sample"))
    assert isinstance(found, Tensor)
    return found


ERRORS: list[float] = []
"""Largest relative errors of the present test."""


@pytest.fixture(autouse=True)
def _errors_recorded(record_property: Callable[[str, object], None]) -> Iterator[None]:
    ERRORS.clear()
    yield
    if ERRORS:
        record_property("numerics", max(ERRORS))


def assert_close(actual: ArrayLike, expected: ArrayLike, scale: ArrayLike | None = None) -> None:
    """Within ``LIMIT`` of the truth, or of what a number is a small rest of."""
    truth = np.asarray(expected, np.longdouble)
    off = np.abs(np.asarray(actual, np.longdouble) - truth)
    most = np.broadcast_to(np.abs(truth) if scale is None else np.asarray(scale), off.shape)
    relative = np.divide(off, most, out=np.where(off == 0, 0, np.longdouble(np.inf)), where=most > 0)
    ERRORS.append(float(relative.max(initial=0)))
    assert (off <= LIMIT * most).all(), off.max()


def root_sum(x: Wide, axis: int | None = None) -> Wide:
    """Euclidean norm."""
    return np.sqrt(np.square(x).sum(axis))


def assert_moments(moments: Moments, x: Wide) -> None:
    """Every number of the statistic; NaN stands for what was left out."""
    per_sample = np.nanmean(x, axis=1)
    assert_close(moments.mean, np.nanmean(x, axis=(0, 1)))
    assert_close(moments.variance, np.nanvar(x, axis=(0, 1)))
    assert_close(moments.cluster_mean, per_sample.mean(0))
    assert_close(moments.sample_variance, per_sample.var(0, ddof=1))
    assert_close(moments.mean_square, np.nanmean(np.square(x)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_moments(case: str, layout: str) -> None:
    x = numbers(case)
    strided = LAYOUTS[layout](x)
    assert torch.equal(strided, x)
    assert_moments(Moments.of(view(strided)).cpu(), held(x))


@pytest.mark.parametrize("case", CASES)
def test_moments_merged(case: str) -> None:
    x = numbers(case)
    first, second = (Moments.of(view(part)).cpu() for part in x.split([23, SAMPLES - 23]))
    assert_moments(first.merge(second), held(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_moments_of_images(case: str, memory_format: torch.memory_format) -> None:
    x = numbers(case).transpose(1, 2).unflatten(2, (3, 3)).contiguous(memory_format=memory_format)
    assert x.is_contiguous(memory_format=memory_format)
    found = canonical(x, unit_axis=1, rows=Rows(0, 1, "sample"))
    assert isinstance(found, Tensor)
    assert_moments(Moments.of(found).cpu(), held(x).reshape(SAMPLES, UNITS, 9).swapaxes(1, 2))


@pytest.mark.parametrize("holes", [(np.nan,), (np.inf,), (-np.inf,), (np.nan, np.inf, -np.inf)])
@pytest.mark.parametrize("case", CASES)
def test_moments_beside_numbers_that_are_not_finite(case: str, holes: tuple[float, ...]) -> None:
    x = numbers(case)
    where = np.random.default_rng(1).random(SHAPE) < 0.1
    where[:, 0] = False  # each sample keeps a position
    x[torch.from_numpy(where)] = torch.tensor(np.resize(holes, where.sum()), dtype=x.dtype)
    moments = Moments.of(view(x)).cpu()
    assert moments.non_finite.tolist() == where.sum((0, 1)).tolist()
    assert moments.n.tolist() == (~where).sum((0, 1)).tolist()
    assert_moments(moments, np.where(where, np.nan, held(x)))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=str)
def test_more_equal_numbers_than_float32_can_count(dtype: torch.dtype) -> None:
    count = 2**24 + 5
    x = torch.full((count, 1, 1), 0.1, dtype=dtype)
    stored = float(x[0, 0, 0])
    moments = Moments.of(view(x)).cpu()
    assert int(moments.n) == int(moments.k) == count
    assert_close(moments.mean, stored)
    assert_close(moments.variance, 0, scale=stored**2 * torch.finfo(FLOAT32).eps)
    tails = Tails.of(view(x), low=stored, high=stored)
    assert int(tails.n) == int(tails.low) == int(tails.high) == int(tails.samples) == count
    assert int(tails.on) == 0


@pytest.mark.parametrize("case", CASES)
def test_a_spread_below_what_a_format_resolves_is_said(case: str) -> None:
    """Where the stored numbers of a unit are nearly all one, its spread is that of the format."""
    dtype, mean, _ = CASES[case]
    limited = Moments.of(view(numbers(case))).cpu().resolution_limited(dtype)
    if mean * torch.finfo(dtype).eps > 10:
        assert limited.all()
    elif mean * torch.finfo(dtype).eps < 0.1:
        assert not limited.any()


@pytest.mark.parametrize("case", CASES)
def test_tails(case: str) -> None:
    x = numbers(case)
    truth = held(x)
    low, high = (float(np.quantile(truth, q, method="nearest")) for q in (0.2, 0.9))
    tails = Tails.of(view(x), low, high).cpu()
    assert tails.low.tolist() == (truth <= low).sum((0, 1)).tolist()
    assert tails.high.tolist() == (truth >= high).sum((0, 1)).tolist()
    assert tails.on.tolist() == (truth > low).any(1).sum(0).tolist()


@pytest.mark.parametrize("case", CASES)
def test_norms_of_parameters_and_gradients(case: str) -> None:
    weight = numbers(case).reshape(SAMPLES, -1)
    gradient = weight.flip(0)
    w, g = held(weight), held(gradient)
    flow = ParameterFlow.of(weight, gradient).cpu()
    assert_close(flow.weight, root_sum(w))
    assert_close(flow.gradient, root_sum(g))
    assert_close(flow.saliency, np.abs((w * g).sum(1)), scale=np.abs(w * g).sum(1))
    assert_close(RowSignature.of(weight).norms, root_sum(w, 1))
    assert_close(WeightLaw.of(weight).std, np.sqrt(np.square(w).mean()))


@pytest.mark.parametrize("case", CASES)
def test_gradients_beside_numbers_that_are_not_finite(case: str) -> None:
    weight = numbers(case).reshape(SAMPLES, -1)
    gradient = weight.clone()
    gradient[::7, ::3] = torch.nan
    gradient[1::7, ::3] = torch.inf
    flow = ParameterFlow.of(weight, gradient).cpu()
    finite = np.isfinite(held(gradient))
    assert int(flow.non_finite) == (~finite).sum()
    assert_close(flow.gradient, root_sum(np.where(finite, held(gradient), 0)))


@pytest.mark.parametrize("case", CASES)
def test_sizes_of_updates(case: str) -> None:
    before = numbers(case).flatten()
    after = before.flip(0)
    size = UpdateSize.of(before, after).cpu()
    change, weight = root_sum(held(after) - held(before)), root_sum(held(before))
    assert_close(size.change, change)
    assert_close(size.ratio, change / weight)
    assert_close(size.largest, change / weight)


@pytest.mark.parametrize("reduction", ["layer", "rms", "group"])
@pytest.mark.parametrize("case", CASES)
def test_scales_of_features_and_samples(case: str, reduction: Reduction) -> None:
    x, groups = numbers(case), 2 if reduction == "group" else 1
    over = (1, 3) if reduction == "group" else (3,)
    truth = held(x).reshape(SAMPLES, POSITIONS, groups, -1)
    truth = truth if reduction == "rms" else truth - truth.mean(over, keepdims=True)
    clean = centered(view(x), reduction, groups)
    features = FeatureScales.of(clean).cpu()
    sd = truth.std((0, 1))
    assert_close(features.mean, truth.mean((0, 1)), scale=np.maximum(sd, np.abs(truth.mean((0, 1)))))
    assert_close(features.variance, np.square(sd))
    square = np.square(truth).mean(over)
    eps = float(np.median(square)) + 1e-300
    scales = SampleScales.of(clean, eps, over_positions=reduction == "group").cpu()
    seen = square > 0
    log = np.log(square, where=seen, out=np.zeros_like(square)) / 2
    assert int(scales.n) == seen.sum()
    assert int(scales.zero) == (~seen).sum()
    assert_close(scales.mean, log[seen].mean() if seen.any() else 0, scale=1)
    spread = log[seen].std() if seen.any() else 0.0
    assert_close(scales.spread, spread, scale=max(spread, 1e-7))
    assert_close(scales.eps_share, (eps / (square + eps))[seen].sum())


@pytest.mark.parametrize("case", CASES)
def test_batches_against_running_statistics(case: str) -> None:
    x = numbers(case)
    truth = held(x)
    mean, variance = truth.mean((0, 1)), truth.var((0, 1))
    kept = [torch.from_numpy((1.1 * each).astype(float)) for each in (mean, variance)]
    eps = float(variance.mean()) * 1e-3 + 1e-300
    drift = BatchDrift.of(view(x), Running(*kept, torch.tensor(3), 0.1, eps)).cpu()
    spread = truth.mean(1).var(0, ddof=1)
    wide = held(kept[1]) + eps
    assert_close(drift.observed, np.square(mean - held(kept[0])).sum())
    assert_close(drift.expected, (spread / SAMPLES * (1 + 0.1 / 1.9)).sum())
    assert_close(drift.offset, np.quantile(np.abs(mean - held(kept[0])) / np.sqrt(wide), 0.99))
    assert_close(drift.log_scale, np.quantile(np.abs(np.log((variance + eps) / wide)) / 2, 0.99), scale=1)
    means = BatchMeans.of(x)
    flat = truth.reshape(SAMPLES, -1)
    assert_close(means.means[0], flat.mean(0), scale=np.maximum(flat.std(0), np.abs(flat.mean(0))))
    assert_close(means.variances[0], flat.var(0, ddof=1))


@pytest.mark.parametrize("case", CASES)
def test_sums_of_histograms(case: str) -> None:
    x = numbers(case)
    histogram = Histogram.of(view(x)).cpu()
    assert_close(histogram.total, held(x).sum())
    assert_close(histogram.squares, np.square(held(x)).sum())
    assert int(histogram.counts.sum()) == x.numel()
    assert [float(histogram.minimum), float(histogram.maximum)] == [float(x.min()), float(x.max())]


@pytest.mark.parametrize("case", CASES)
def test_spectra(case: str) -> None:
    x = numbers(case)[:, :1]
    rows = held(x)[:, 0]
    scaled = (rows - rows.mean(0)) / np.sqrt(np.square(rows).mean(0)) / math.sqrt(SAMPLES)
    expected = np.linalg.eigvalsh((scaled.T @ scaled).astype(float))[::-1]
    spectrum = Spectrum.of(view(x))
    assert int(spectrum.alive) == UNITS
    assert_close(spectrum.eigenvalues, expected, scale=expected[0])
