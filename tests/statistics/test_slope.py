"""Slope: the values of the normal law, and automatic differentiation at the raw entries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from nndiag.functional import TailEdges, tail_edges
from nndiag.statistics import Slope

RELU, TANH = tail_edges("relu", torch.relu), tail_edges("tanh", torch.tanh)
SIGMOID = tail_edges("sigmoid", torch.sigmoid)
HARDTANH = tail_edges("hardtanh", torch.nn.functional.hardtanh)
SILU = tail_edges("silu", torch.nn.functional.silu)


def over_standard_normal(edges: TailEdges) -> Slope:
    """The statistic on 2^17 quantiles of N(0, 1), in parts that are read whole."""
    count = 2**17
    quantiles = torch.from_numpy(special.ndtri((np.arange(count) + 0.5) / count)).reshape(-1, 4096)
    parts = [Slope.of(part.reshape(-1, 1, 1), edges) for part in quantiles]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    assert total.n == count
    return total


@pytest.mark.parametrize(
    ("edges", "transmission"),
    [(RELU, 0.5), (TANH, 0.4644029), (SIGMOID, 0.7173799)],
    ids=lambda v: str(v)[:20],
)
def test_transmission_of_standard_normal_input(edges: TailEdges, transmission: float) -> None:
    assert over_standard_normal(edges).transmission == pytest.approx(transmission, abs=2e-6)


def test_transmission_is_an_integral() -> None:
    def integrand(x: float) -> float:
        s = special.expit(x)
        return (s * (1 + x * (1 - s))) ** 2 * stats.norm.pdf(x)

    expected = integrate.quad(integrand, -12, 12)[0] / SILU.max_slope**2
    assert over_standard_normal(SILU).transmission == pytest.approx(expected, abs=2e-6)


def test_phi_of_tanh_of_standard_normal_input() -> None:
    assert over_standard_normal(TANH).phi == pytest.approx(0.5559793, abs=2e-6)


def test_phi_is_zero_in_the_middle_and_one_at_the_ends() -> None:
    assert Slope.of(torch.zeros(9, 1, 1), TANH).phi == 0.0
    assert Slope.of(torch.full((9, 1, 1), -50.0), TANH).phi == pytest.approx(1.0, abs=1e-6)
    assert Slope.of(torch.zeros(9, 1, 1), SIGMOID).phi == pytest.approx(0.0, abs=1e-6)


def test_phi_of_uniform_outputs_is_a_half() -> None:
    x = (torch.arange(4096, dtype=torch.float64) + 0.5) / 2048 - 1
    assert Slope.of(x.reshape(-1, 1, 1), HARDTANH).phi == pytest.approx(0.5, abs=1e-9)


def test_phi_does_not_exist_for_unbounded_functions() -> None:
    assert Slope.of(torch.randn(9, 1, 1, generator=torch.Generator().manual_seed(0)), RELU).phi == 0.0


@pytest.mark.parametrize("edges", [RELU, TANH, SIGMOID, HARDTANH, SILU], ids=lambda e: e.name)
def test_agrees_with_autograd_at_each_entry(edges: TailEdges) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 5, 6))) * 2
    leaf = x.clone().requires_grad_()
    edges.function(leaf).sum().backward()
    expected = float(leaf.grad.square().mean()) / edges.max_slope**2
    assert Slope.of(x, edges).transmission == pytest.approx(expected, rel=1e-12)
    assert Slope.of(x.float(), edges).transmission == pytest.approx(expected, rel=1e-5)


def test_inputs_are_detached_and_unchanged() -> None:
    edges = tail_edges("relu", torch.nn.ReLU(inplace=True))
    x = torch.linspace(-1, 1, 10).reshape(-1, 1, 1).requires_grad_()
    slope = Slope.of(x, edges)
    assert x._version == 0
    assert x.grad is None
    assert not slope.squares.requires_grad
    assert slope.transmission == 0.5


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_can_be_off(mode) -> None:
    with mode():
        x = torch.linspace(-1, 1, 10).reshape(-1, 1, 1)
        assert Slope.of(x, tail_edges("relu", torch.relu)).transmission == 0.5


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_non_finite_entries_are_left_out(hole: float) -> None:
    x = torch.tensor([0.0, hole, 0.0, hole]).reshape(4, 1, 1)
    slope = Slope.of(x, TANH)
    assert (slope.n, slope.transmission, slope.phi) == (2, 1.0, 0.0)


@pytest.mark.parametrize("x", [torch.zeros(0, 1, 2), torch.full((3, 1, 1), torch.nan)], ids=["empty", "nan"])
def test_nothing_to_differentiate_at(x: Tensor) -> None:
    slope = Slope.of(x, TANH)
    assert (slope.n, slope.transmission, slope.phi) == (0, 0.0, 0.0)


def test_a_function_without_a_gradient_lets_nothing_through() -> None:
    step = TailEdges("step", None, None, 1.0, 0.0, 1.0, False, lambda x: (x.detach() > 0).to(x.dtype))
    assert Slope.of(torch.linspace(-1, 1, 8).reshape(-1, 1, 1), step).transmission == 0.0


def test_a_large_tensor_is_sampled() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3000, 2, 16)))
    slope = Slope.of(x, RELU)
    assert 2048 <= slope.n <= 4096
    assert slope.transmission == pytest.approx(0.5, abs=0.04)
