"""Propagation: gains of gradients by hand, and their theory in wide random networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nndiag.functional import gradient_ratios, total_gain, variance_share
from nndiag.statistics import Moments


def test_ratios_multiply_to_the_total_gain() -> None:
    squares = [0.5, 2.0, 8.0, 1.0]
    ratios = gradient_ratios(squares)
    assert ratios == [0.25, 0.25, 8.0]
    assert total_gain(squares) == pytest.approx(math.prod(ratios)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("squares", "ratios", "gain"),
    [
        ([1.0], [], 1.0),
        ([0.0, 1.0], [0.0], 0.0),
        ([1.0, 0.0], [math.inf], math.inf),
        ([0.0, 0.0], [1.0], 1.0),
        ([0.0], [], 1.0),
    ],
)
def test_nothing_arrives(squares: list[float], ratios: list[float], gain: float) -> None:
    assert gradient_ratios(squares) == ratios
    assert total_gain(squares) == gain


@pytest.mark.parametrize(("mean", "variance", "share"), [(3, 1, 0.25), (0, 2, 1), (2, 0, 0), (0, 0, 0)])
def test_variance_share(mean: float, variance: float, share: float) -> None:
    assert variance_share(mean, variance) == share


@pytest.mark.parametrize(
    ("activation", "gain", "chi"),
    [
        (torch.relu, 2, 1),
        (torch.relu, 1 / 3, 1 / 6),
        (torch.nn.Identity(), 1 / 3, 1 / 3),
        (torch.nn.Identity(), 1, 1),
    ],
    ids=["He, ReLU", "default, ReLU", "default, linear", "LeCun, linear"],
)
def test_gradients_of_wide_networks_follow_the_theory(activation, gain: float, chi: float) -> None:
    torch.manual_seed(0)
    width, depth, samples = 256, 5, 64
    h, outputs = torch.randn(samples, width), []
    for _ in range(depth):
        layer = nn.Linear(width, width, bias=False)
        nn.init.normal_(layer.weight, std=math.sqrt(gain / width))
        outputs.append(layer(h))
        h = activation(outputs[-1])
    slopes = torch.autograd.grad((outputs[-1] * torch.randn(samples, width)).sum(), outputs)
    squares = [Moments.of(slope.unsqueeze(1)).mean_square for slope in slopes]
    mean_ratio = total_gain(squares) ** (1 / (depth - 1))
    assert mean_ratio == pytest.approx(chi, rel=0.1)
    assert all(ratio == pytest.approx(chi, rel=0.3) for ratio in gradient_ratios(squares))
