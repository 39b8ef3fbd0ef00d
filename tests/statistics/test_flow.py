"""Sizes of parameters, gradients and updates: closed forms, and numbers at the edge of float32."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nndiag.statistics import ParameterFlow, UpdateSize


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_norms_and_saliency_against_numpy() -> None:
    w, g = draw(6, 4, 3), draw(6, 4, 3, seed=1)
    flow = ParameterFlow.of(w, g)
    assert float(flow.weight) == pytest.approx(np.linalg.norm(w.numpy()), rel=1e-6)
    assert flow.gradient == pytest.approx(np.linalg.norm(g.numpy()), rel=1e-6)
    expected = np.abs((w * g).numpy().reshape(6, -1).sum(1))
    np.testing.assert_allclose(flow.saliency, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_gradients_whose_squares_leave_float32(size: float) -> None:
    w, g = torch.ones(4, 9), size * torch.ones(4, 9)
    flow = ParameterFlow.of(w, g).cpu()
    assert flow.gradient == pytest.approx(6 * size, rel=1e-5)
    assert not flow.is_silent
    np.testing.assert_allclose(flow.saliency, 9 * size, rtol=1e-5)


def test_saliency_ignores_the_scale_shared_by_neighbors() -> None:
    """Incoming weights times c make their gradients c times smaller."""
    w, g, c = draw(5, 7), draw(5, 7, seed=1), torch.tensor([1e-3, 0.1, 1.0, 10.0, 1e3]).unsqueeze(1)
    scaled = ParameterFlow.of(w * c, g / c)
    torch.testing.assert_close(scaled.saliency, ParameterFlow.of(w, g).saliency, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("gradient", "is_silent"), [(None, True), (0.0, True), (1e-38, False), (math.nan, False)]
)
def test_silence_is_no_gradient_or_exact_zeros(gradient: float | None, is_silent: bool) -> None:
    g = None if gradient is None else torch.full((3, 2), gradient)
    assert ParameterFlow.of(torch.ones(3, 2), g).is_silent is is_silent


def test_non_finite_entries_are_counted_and_left_out() -> None:
    g = torch.tensor([[3.0, math.nan], [4.0, math.inf]])
    flow = ParameterFlow.of(torch.ones(2, 2), g)
    assert int(flow.non_finite) == 2
    assert flow.gradient == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("shape", "is_matrix"), [((), False), ((4,), False), ((4, 3), True), ((4, 3, 2), True)]
)
def test_what_a_matrix_is(shape: tuple[int, ...], is_matrix: bool) -> None:
    assert ParameterFlow.of(torch.ones(shape), torch.ones(shape)).is_matrix is is_matrix


def test_update_ratio() -> None:
    update = UpdateSize.of(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    assert update.ratio == pytest.approx(0.1)
    assert int(update.sampled) == 2


def test_an_update_from_zero_is_infinite_and_none_at_all_is_zero() -> None:
    assert UpdateSize.of(torch.zeros(3), torch.ones(3)).ratio == math.inf
    assert UpdateSize.of(torch.zeros(3), torch.zeros(3)).ratio == 0.0


def test_a_step_below_the_resolution_of_bf16_does_not_move() -> None:
    w = torch.ones(8, dtype=torch.bfloat16)
    assert UpdateSize.of(w, w + 1e-4).ratio == 0.0


def test_the_largest_step_is_kept() -> None:
    one = torch.ones(4)
    first = UpdateSize.of(one, 3 * one)
    second = UpdateSize.of(one, 1.5 * one, first.largest)
    assert (second.ratio, float(second.largest)) == (pytest.approx(0.5), pytest.approx(2.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_largest_step_outlives_what_it_broke(bad: float) -> None:
    one = torch.ones(4)
    first = UpdateSize.of(one, 3 * one)
    assert float(UpdateSize.of(bad * one, bad * one, first.largest).largest) == pytest.approx(2.0)


def test_steps_of_a_parameter_that_began_at_zero_are_not_compared() -> None:
    one = torch.ones(4)
    first = UpdateSize.of(0 * one, one)
    assert math.isnan(float(UpdateSize.of(one, 3 * one, first.largest).largest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (700, 300), (8, 3, 5, 5)])
def test_what_fits_float32_is_what_float64_gives(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    w, g = draw(*shape), 1e-3 * draw(*shape, seed=1)
    flow = ParameterFlow.of(w.to(dtype), g.to(dtype))
    assert float(flow.weight) == pytest.approx(float(w.double().norm()), rel=1e-6)
    assert flow.gradient == pytest.approx(float(g.double().norm()), rel=1e-6)
    saliency = (w.double() * g.double()).reshape(len(w), -1).sum(1).abs()
    assert torch.allclose(flow.saliency, saliency, rtol=1e-5, atol=1e-6 * float(saliency.max()))


@pytest.mark.parametrize("scale", [1e-25, 1e-9, 1.0, 1e14, 1e25])
def test_gradients_of_any_size_are_measured(scale: float) -> None:
    w, g = draw(70, 30), draw(70, 30, seed=1)
    flow = ParameterFlow.of(w, (scale * g.double()).float())
    assert flow.gradient == pytest.approx(scale * float(g.double().norm()), rel=1e-6)
    expected = scale * (w.double() * g.double()).sum(1).abs()
    assert torch.allclose(flow.saliency, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
