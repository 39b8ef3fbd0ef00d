"""What a change of names or of units of measurement must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SUMMED, TANH, make, views
from torch import Tensor, nn

from nndiag.functional import tail_edges
from nndiag.statistics import Moments, RowSignature, Slope, Tails, WeightLaw

seeds = st.integers(0, 2**32 - 1)
PER_UNIT = {
    "moments": ("n", "mean", "m2", "cluster_mean", "cluster_m2", "non_finite"),
    "tails": ("n", "low", "high", "on"),
}
ANY_ORDER_OF_UNITS = ("slope", "histogram")


def close(found: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * scale, equal_nan=True)


@pytest.mark.parametrize("name", PER_UNIT)
@given(x=views(holes=True), seed=seeds)
def test_units_may_be_renamed(name: str, x: Tensor, seed: int) -> None:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(x.shape[-1]))
    plain, renamed = make(name, x), make(name, x[..., order])
    for field in PER_UNIT[name]:
        close(getattr(renamed, field), getattr(plain, field)[order])


@pytest.mark.parametrize("name", ANY_ORDER_OF_UNITS)
@given(x=views(holes=True), seed=seeds)
def test_displays_do_not_know_the_order_of_units(name: str, x: Tensor, seed: int) -> None:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(x.shape[-1]))
    plain, renamed = make(name, x), make(name, x[..., order])
    for field, value in plain.to_tensors().items():
        close(renamed.to_tensors()[field], value, float(plain.squares))


@pytest.mark.parametrize("name", SUMMED)
@given(x=views(), seed=seeds)
def test_samples_may_come_in_any_order(name: str, x: Tensor, seed: int) -> None:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    plain, other = make(name, x), make(name, x[order])
    size = 1 + float(x.square().sum())
    for field, value in plain.to_tensors().items():
        torch.testing.assert_close(other.to_tensors()[field], value, rtol=1e-6, atol=1e-9 * size)


@given(x=views(holes=True), seed=seeds)
def test_positions_may_come_in_any_order(x: Tensor, seed: int) -> None:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(x.shape[1]))
    for name, fields in PER_UNIT.items():
        plain, other = make(name, x), make(name, x[:, order])
        for field in fields:
            close(getattr(other, field), getattr(plain, field))


@given(x=views(holes=True), seed=seeds)
def test_off_rates_do_not_change_when_units_are_rescaled(x: Tensor, seed: int) -> None:
    factors = torch.from_numpy(np.exp(np.random.default_rng(seed).standard_normal(x.shape[-1])))
    plain, rescaled = Tails.of(x, 0.0, None), Tails.of(x * factors, 0.0, None)
    for field in PER_UNIT["tails"]:
        assert torch.equal(getattr(rescaled, field), getattr(plain, field))
    assert torch.equal(rescaled.always_low, plain.always_low)


@given(seed=seeds)
def test_a_rectified_network_rescaled_inside_has_the_same_off_rates_and_alikeness(seed: int) -> None:
    """Each hidden unit's incoming parameters times a factor, its outgoing weights divided by it."""
    torch.manual_seed(seed % 2**31)
    first, second = nn.Linear(5, 9).double(), nn.Linear(9, 4).double()
    x, factors = torch.randn(40, 5, dtype=torch.float64), torch.randn(9, dtype=torch.float64).exp()
    with torch.no_grad():
        before = first(x), second(first(x).relu())
        alike = RowSignature.of(first.weight, directions=first.weight).cosine
        first.weight.mul_(factors.unsqueeze(1))
        first.bias.mul_(factors)
        second.weight.div_(factors)
        after = first(x), second(first(x).relu())
    close(after[1], before[1])
    rates = [Tails.of(z.unsqueeze(1), 0.0, None).on_rates for z in (before[0], after[0])]
    assert rates[0] == rates[1]
    close(RowSignature.of(first.weight, directions=first.weight).cosine, alike)


@given(x=views(), factor=st.sampled_from([2.0**-40, 0.3, 7.0, 2.0**40]), shift=st.sampled_from([0.0, 5.0]))
def test_moments_follow_a_change_of_units_of_measurement(x: Tensor, factor: float, shift: float) -> None:
    plain, other = Moments.of(x), Moments.of((x + shift) * factor)
    size = float(x.abs().max()) + shift + 1
    close(other.mean / factor - shift, plain.mean, size)
    close(other.variance / factor**2, plain.variance, size**2)
    close(other.se2 / factor**2, plain.se2, size**2)
    assert torch.equal(other.n, plain.n)


@given(x=views(), power=st.sampled_from([-60, -1, 1, 60]))
def test_effective_samples_do_not_know_units_of_measurement(x: Tensor, power: int) -> None:
    plain, other = Moments.of(x), Moments.of(x * 2.0**power)
    torch.testing.assert_close(
        other.effective_samples, plain.effective_samples, rtol=1e-6, atol=0, equal_nan=True
    )


@given(x=views())
def test_sigmoid_and_tanh_of_half_transmit_alike(x: Tensor) -> None:
    sigmoid, half = tail_edges("sigmoid", torch.sigmoid), tail_edges("half", lambda z: torch.tanh(z / 2))
    one, other = Slope.of(x, sigmoid), Slope.of(x, half)
    close(one.squares, other.squares, x.numel())
    assert one.phi == pytest.approx(other.phi, abs=1e-6)


@given(x=views())
def test_an_odd_function_does_not_know_signs(x: Tensor) -> None:
    one, other = Slope.of(x, TANH), Slope.of(-x, TANH)
    close(one.squares, other.squares)
    assert one.phi == pytest.approx(other.phi, abs=1e-9)


@given(seed=seeds, power=st.sampled_from([-60, -3, 3, 60]))
def test_the_law_of_a_weight_does_not_know_its_scale_or_order(seed: int, power: int) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.standard_normal((12, 9)))
    plain = WeightLaw.of(weight)
    moved = WeightLaw.of(weight[torch.from_numpy(rng.permutation(12))] * 2.0**power)
    for name in ("uniform", "normal", "truncated", "skew"):
        close(getattr(moved, name), getattr(plain, name))
    assert float(moved.std) == pytest.approx(float(plain.std) * math.ldexp(1, power))


@given(seed=seeds)
def test_sign_flips_of_units_keep_signed_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.standard_normal((10, 4))).repeat(2, 1)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], (20, 1)))
    plain, flipped = RowSignature.of(rows), RowSignature.of(rows * signs)
    assert len(plain.signed.unique()) == len(flipped.signed.unique()) == 10
    assert torch.equal(flipped.signed[:10], flipped.signed[10:])
