"""Running averages, the signal gain, scale-invariant weights: closed forms, and torch as a witness."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional as F

from nndiag.functional import (
    effective_rate,
    ema_batches,
    ema_noise,
    log_scale_spread,
    signal_gain,
    warm_up,
)


@pytest.mark.parametrize(
    ("momentum", "noise"), [(1.0, 1.0), (0.5, 1 / 3), (0.1, 0.05263), (0.01, 0.00503), (0.001, 0.0005)]
)
def test_noise_of_a_running_mean(momentum: float, noise: float) -> None:
    assert ema_noise(momentum) == pytest.approx(noise, abs=5e-6)
    assert ema_batches(momentum) == pytest.approx(1 / ema_noise(momentum))


def test_noise_is_the_variance_of_a_long_running_average() -> None:
    means = np.random.default_rng(0).normal(size=(400, 4000))
    running = np.zeros(4000)
    for mean in means:
        running = 0.9 * running + 0.1 * mean
    assert running.var() == pytest.approx(ema_noise(0.1), rel=0.08)


@pytest.mark.parametrize(
    ("momentum", "steps"), [(0.5, 7), (0.1, 44), (0.03, 152), (0.01, 459), (0.001, 4603), (1.0, 1)]
)
def test_steps_until_the_first_value_is_forgotten(momentum: float, steps: int) -> None:
    assert warm_up(momentum) == steps
    assert (1 - momentum) ** steps < 0.01


def test_without_momentum_nothing_is_forgotten() -> None:
    assert warm_up(0.0) == math.inf
    assert ema_batches(0.0) == math.inf


@pytest.mark.parametrize(
    ("scales", "offsets", "gamma"),
    [
        ((1, 1, 1, 3), (0, 0, 0, 0), 0.7598357),
        ((1, 1, 1, 1), (1, 1, -1, -1), 0.7071068),
        ((1, 1, 1, 3), (1, 1, -1, -1), 0.6580370),
        ((2, 2), (0, 0), 1.0),
    ],
)
def test_signal_gain_of_known_features(
    scales: tuple[float, ...], offsets: tuple[float, ...], gamma: float
) -> None:
    gain = signal_gain(offsets, np.square(scales))
    assert gain.gamma == pytest.approx(gamma, abs=5e-8)
    assert gain.gamma == pytest.approx(gain.scales * math.sqrt(1 - gain.offsets))


def test_signal_gain_is_the_size_of_the_signal_behind_layer_norm() -> None:
    """Many features: the geometric mean of the standard deviations of torch's own outputs."""
    torch.manual_seed(0)
    scale = torch.rand(256, dtype=torch.float64) * 3 + 0.2
    x = torch.randn(4000, 256, dtype=torch.float64) * scale + 2 * torch.randn(256, dtype=torch.float64)
    outputs = F.layer_norm(x, (256,)).std(0)
    x = x - x.mean(1, keepdim=True)
    found = signal_gain(x.mean(0).numpy(), x.var(0, correction=0).numpy())
    assert found.gamma == pytest.approx(float(outputs.log().mean().exp()), rel=0.01)


def test_features_of_one_law_keep_their_signal() -> None:
    x = np.random.default_rng(0).normal(size=(20000, 64))
    x -= x.mean(1, keepdims=True)
    assert signal_gain(x.mean(0), x.var(0)).gamma == pytest.approx(1.0, abs=1e-3)


def test_scale_and_order_of_features_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    m, v = rng.normal(size=20), rng.exponential(size=20)
    order = rng.permutation(20)
    assert signal_gain(7 * m[order], 49 * v[order]).gamma == pytest.approx(signal_gain(m, v).gamma)


def test_constant_features_are_counted_and_left_out() -> None:
    gain = signal_gain((0, 0, 0), (0, 4, 4))
    assert (gain.constant, gain.largest, gain.share) == (1, 1, 0.5)
    assert gain.scales == pytest.approx(math.sqrt(4 / (8 / 3)))
    assert signal_gain((1, -1), (0, 0)).gamma == 0.0
    assert signal_gain((0, 0), (0, 0)).offsets == 0.0


def test_spread_of_the_scale_over_samples() -> None:
    assert log_scale_spread(64) == pytest.approx(0.0884, abs=5e-5)
    sigma = torch.randn(20000, 64, generator=torch.Generator().manual_seed(0)).std(1, correction=0)
    assert float(sigma.log().std()) == pytest.approx(log_scale_spread(64), rel=0.03)


def test_weights_in_front_of_a_norm_turn_by_their_squared_inverse() -> None:
    """A step of one learning rate turns a weight of c times the norm by 1 / c^2 of the angle."""
    torch.manual_seed(0)
    x, target, w = torch.randn(64, 8), torch.randn(64, 4), torch.randn(4, 8)

    def turn(norm: float) -> float:
        weight = (norm * w).requires_grad_()
        y = F.batch_norm(F.linear(x, weight), None, None, training=True, eps=1e-10)
        (gradient,) = torch.autograd.grad(F.mse_loss(y, target), weight)
        weight = weight.detach()
        assert float(F.cosine_similarity(gradient, weight, dim=1).abs().max()) < 1e-4
        return float(gradient.norm() / weight.norm())

    assert turn(3.0) / turn(1.0) == pytest.approx(effective_rate(1.0, 3.0), rel=1e-3)
    assert effective_rate(2.0, 0.0) == math.inf


def test_gradient_of_weight_norm_is_orthogonal_to_its_direction() -> None:
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(16, 8))
    layer(torch.randn(32, 16)).square().sum().backward()
    direction = layer.parametrizations.weight.original1
    assert float(F.cosine_similarity(direction.grad, direction.detach(), dim=1).abs().max()) < 1e-5


def test_what_torch_calls_batch_normalization() -> None:
    """Training divides by the biased variance, the buffer takes the unbiased one."""
    layer = nn.BatchNorm1d(1)
    output = layer(torch.tensor([[0.0], [3.0]])).detach().flatten()
    assert_allclose(output, [-0.9999978, 0.9999978], rtol=1e-6)
    assert float(output[1]) == pytest.approx(1 / math.sqrt(1 + 4e-5 / 9), rel=1e-6)
    assert float(layer.running_mean) == pytest.approx(0.15)
    assert float(layer.running_var) == pytest.approx(1.35)


def test_what_torch_calls_layer_normalization() -> None:
    """Mean 2.5 and biased variance 1.25, eps inside the root."""
    output = F.layer_norm(torch.tensor([1.0, 2, 3, 4], dtype=torch.float64), (4,))
    expected = 1.5 / math.sqrt(1.25 + 1e-5), 0.5 / math.sqrt(1.25 + 1e-5)
    assert expected == pytest.approx((1.3416355, 0.4472119), abs=2e-7)
    assert_allclose(output, [-expected[0], -expected[1], expected[1], expected[0]], rtol=1e-12)
