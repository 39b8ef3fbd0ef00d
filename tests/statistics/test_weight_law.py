"""WeightLaw: distances of scipy.stats.kstest, orthogonality, constancy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from nndiag.statistics import WeightLaw

CUT_STD = stats.truncnorm.std(-2, 2)
FAMILIES = {
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "normal": stats.norm(),
    "truncated": stats.truncnorm(-2, 2, scale=1 / CUT_STD),
}
SHAPES = [(10, 16), (32, 3, 5, 5), (64, 100), (1, 50), (50, 1)]


def draw(family: str, shape: tuple[int, ...], scale: float = 0.05) -> Tensor:
    return torch.from_numpy(FAMILIES[family].rvs(shape, random_state=np.random.default_rng(0)) * scale)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distances_are_those_of_scipy(family: str, shape: tuple[int, ...]) -> None:
    weight = draw(family, shape)
    law = WeightLaw.of(weight)
    flat = weight.numpy().ravel()
    root_mean_square = math.sqrt(np.square(flat).mean())
    assert float(law.std) == pytest.approx(root_mean_square, rel=1e-12)
    assert (int(law.entries), int(law.sampled)) == (flat.size, flat.size)
    assert float(law.spread) == pytest.approx(np.ptp(flat), rel=1e-12)
    for name, distribution in FAMILIES.items():
        expected = stats.kstest(flat / root_mean_square, distribution.cdf).statistic
        assert float(getattr(law, name)) == pytest.approx(expected, abs=1e-7), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_storage_hardly_moves_the_distances(family: str, dtype: torch.dtype) -> None:
    weight = draw(family, (64, 100))
    exact, stored = WeightLaw.of(weight), WeightLaw.of(weight.to(dtype))
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]
    for name in FAMILIES:
        assert float(getattr(stored, name)) == pytest.approx(float(getattr(exact, name)), abs=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("factor", [1e-25, 1e-10, 1e10, 1e25])
def test_scale_does_not_matter(family: str, factor: float) -> None:
    weight = draw(family, (20, 30))
    plain, scaled = WeightLaw.of(weight), WeightLaw.of((weight * factor).float())
    for name in (*FAMILIES, "skew"):
        assert float(getattr(scaled, name)) == pytest.approx(float(getattr(plain, name)), abs=1e-5), name
    assert float(scaled.std) == pytest.approx(float(plain.std) * factor, rel=1e-6)
    assert not scaled.is_orthogonal


def test_a_large_weight_is_sampled_for_distances_only() -> None:
    weight = draw("normal", (400, 300))
    law = WeightLaw.of(weight)
    assert int(law.entries) == 120_000
    assert 10_000 <= int(law.sampled) <= 20_000
    assert float(law.std) == pytest.approx(float(weight.square().mean().sqrt()), rel=1e-12)
    assert float(law.normal) < stats.kstwo.isf(1e-3, int(law.sampled)) < float(law.uniform)


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (8, 3, 5, 5), (600, 700)], ids=str)
@pytest.mark.parametrize("gain", [1.0, 1e-8, 3.0])
def test_orthogonal_weights_are_recognized(shape: tuple[int, ...], gain: float) -> None:
    torch.manual_seed(0)
    law = WeightLaw.of(nn.init.orthogonal_(torch.empty(shape), gain))
    assert law.is_orthogonal
    assert not law.is_constant


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(2, 2000), (16, 16), (64, 27)], ids=str)
def test_random_weights_are_not_orthogonal(family: str, shape: tuple[int, ...]) -> None:
    assert not WeightLaw.of(draw(family, shape)).is_orthogonal


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-30])
def test_constant_weights_are_recognized(value: float) -> None:
    law = WeightLaw.of(torch.full((8, 5), value))
    assert law.is_constant
    assert not law.is_orthogonal


@pytest.mark.parametrize("hole", [math.nan, math.inf])
def test_a_diverged_weight_has_no_law(hole: float) -> None:
    weight = draw("normal", (8, 5))
    weight[2, 3] = hole
    law = WeightLaw.of(weight)
    assert not law.is_constant
    assert not law.is_orthogonal
    assert not math.isfinite(float(law.std))
