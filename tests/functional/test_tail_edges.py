"""Tail edges: closed forms, and roots of hand-written derivatives found by SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import optimize, special, stats
from torch import Tensor, nn

from nndiag.functional import ELEMENTWISE, tail_edges

TAU = 0.05
SELU_SLOPE = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717
LOGIT = math.log(TAU / (1 - TAU))


class Known(NamedTuple):
    """An activation: its forms, and what is known of it."""

    low: float | None
    high: float | None
    max_slope: float
    forms: tuple[Callable[[Tensor], Tensor], ...]


KNOWN = {
    "relu": Known(0.0, None, 1.0, (nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, Tensor.relu)),
    "relu6": Known(0.0, 6.0, 1.0, (nn.ReLU6(), nn.ReLU6(inplace=True), F.relu6)),
    "elu": Known(math.log(TAU), None, 1.0, (nn.ELU(), nn.ELU(inplace=True), F.elu)),
    "selu": Known(math.log(TAU), None, SELU_SLOPE, (nn.SELU(), F.selu, torch.selu)),
    "celu": Known(math.log(TAU), None, 1.0, (nn.CELU(), F.celu, torch.celu)),
    "gelu": Known(-2.278561, None, 1.128904, (nn.GELU(), F.gelu)),
    "silu": Known(-3.929897, None, 1.099840, (nn.SiLU(), nn.SiLU(inplace=True), F.silu)),
    "mish": Known(-3.643573, None, 1.088, (nn.Mish(), F.mish)),
    "sigmoid": Known(
        -4.356544420601752, 4.356544420601752, 0.25, (nn.Sigmoid(), F.sigmoid, torch.sigmoid, Tensor.sigmoid)
    ),
    "tanh": Known(-2.178272210300876, 2.178272210300876, 1.0, (nn.Tanh(), F.tanh, torch.tanh, Tensor.tanh)),
    "softplus": Known(LOGIT, None, 1.0, (nn.Softplus(), F.softplus)),
    "softsign": Known(-3.472136, 3.472136, 1.0, (nn.Softsign(), F.softsign)),
    "hardtanh": Known(-1.0, 1.0, 1.0, (nn.Hardtanh(), nn.Hardtanh(inplace=True), F.hardtanh)),
    "hardsigmoid": Known(-3.0, 3.0, 1 / 6, (nn.Hardsigmoid(), F.hardsigmoid)),
    "hardswish": Known(-3.0, None, 1.5, (nn.Hardswish(), nn.Hardswish(inplace=True), F.hardswish)),
    "logsigmoid": Known(None, -LOGIT, 1.0, (nn.LogSigmoid(), F.logsigmoid)),
    "leaky_relu": Known(None, None, 1.0, (nn.LeakyReLU(), nn.LeakyReLU(0.2), F.leaky_relu)),
    "prelu": Known(
        None, None, 1.0, (nn.PReLU().double(), lambda x: F.prelu(x, torch.tensor(0.25, dtype=x.dtype)))
    ),
    "rrelu": Known(None, None, 1.0, (nn.RReLU().eval(), F.rrelu)),
    "threshold": Known(0.5, None, 1.0, (nn.Threshold(0.5, 0.0), lambda x: F.threshold(x, 0.5, -1.0))),
    "tanhshrink": Known(None, None, 1.0, (nn.Tanhshrink(), F.tanhshrink)),
    "softshrink": Known(None, None, 1.0, (nn.Softshrink(), F.softshrink)),
    "hardshrink": Known(None, None, 1.0, (nn.Hardshrink(), F.hardshrink)),
}
FORMS = [
    pytest.param(name, known, form, id=f"{name}-{place}")
    for name, known in KNOWN.items()
    for place, form in enumerate(known.forms)
]


def test_every_elementwise_activation_is_known() -> None:
    assert set(KNOWN) == ELEMENTWISE


@pytest.mark.parametrize(("name", "known", "form"), FORMS)
def test_edges_are_the_known_ones(name: str, known: Known, form: Callable[[Tensor], Tensor]) -> None:
    if name == "mish":
        known = known._replace(low=outermost_crossing(mish_slope), max_slope=steepest(mish_slope))
    edges = tail_edges(name, form)
    assert edges.low == (None if known.low is None else pytest.approx(known.low, abs=1e-6))
    assert edges.high == (None if known.high is None else pytest.approx(known.high, abs=1e-6))
    assert edges.max_slope == pytest.approx(known.max_slope, abs=1e-6)
    assert edges.has_tails is not (known.low is None and known.high is None)


@pytest.mark.parametrize(("name", "edge"), [("tanh", math.acosh(TAU**-0.5)), ("softsign", TAU**-0.5 - 1)])
def test_edges_are_exact_to_double_precision(name: str, edge: float) -> None:
    edges = tail_edges(name, KNOWN[name].forms[0])
    assert edges.low == pytest.approx(-edge, rel=1e-12)
    assert edges.high == pytest.approx(edge, rel=1e-12)


@pytest.mark.parametrize(("name", "edge"), [("relu", 0.0), ("relu6", 0.0), ("hardswish", -3.0)])
def test_kinks_are_edges_to_double_precision(name: str, edge: float) -> None:
    assert tail_edges(name, KNOWN[name].forms[0]).low == pytest.approx(edge, abs=1e-12)


def sigmoid_slope(x: float) -> float:
    return special.expit(x) * special.expit(-x)


def silu_slope(x: float) -> float:
    return special.expit(x) + x * sigmoid_slope(x)


def gelu_slope(x: float) -> float:
    return stats.norm.cdf(x) + x * stats.norm.pdf(x)


def mish_slope(x: float) -> float:
    inner = np.logaddexp(0, x)
    return np.tanh(inner) + x * special.expit(x) / np.cosh(inner) ** 2


def steepest(slope: Callable[[float], float]) -> float:
    return -optimize.minimize_scalar(lambda x: -slope(x), bounds=(0.5, 5), method="bounded").fun


def outermost_crossing(slope: Callable[[float], float]) -> float:
    """Where the slope, seen from far on the left, first reaches its share of the steepest one."""
    limit = TAU * steepest(slope)
    grid = np.linspace(-20, 0, 2001)
    first = int(np.argmax(np.abs([slope(x) for x in grid]) >= limit))
    return optimize.brentq(lambda x: abs(slope(x)) - limit, grid[first - 1], grid[first])


@pytest.mark.parametrize(
    ("name", "slope"),
    [("gelu", gelu_slope), ("silu", silu_slope), ("mish", mish_slope)],
    ids=["gelu", "silu", "mish"],
)
def test_an_inner_minimum_is_no_tail(name: str, slope: Callable[[float], float]) -> None:
    edges = tail_edges(name, KNOWN[name].forms[0])
    assert edges.low == pytest.approx(outermost_crossing(slope), abs=1e-6)
    assert edges.max_slope == pytest.approx(steepest(slope), abs=1e-6)
    minimum = optimize.brentq(slope, -3, -0.1)
    assert edges.low < minimum, "the slope is zero there, but large on both sides"


@pytest.mark.parametrize("scale", [0.5, 2.0, 10.0])
def test_edges_scale_with_the_input(scale: float) -> None:
    edges = tail_edges("scaled tanh", lambda x: torch.tanh(scale * x))
    assert edges.high == pytest.approx(math.acosh(TAU**-0.5) / scale, rel=1e-9)
    assert edges.max_slope == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("factor", [1e-6, -3.0, 1e6])
def test_edges_do_not_depend_on_the_scale_of_the_output(factor: float) -> None:
    edges = tail_edges("tanh", lambda x: factor * torch.tanh(x))
    assert (edges.low, edges.high) == (pytest.approx(-2.178272210300876), pytest.approx(2.178272210300876))


def test_sigmoid_and_tanh_of_half_have_the_same_edges() -> None:
    half = tail_edges("half", lambda x: torch.tanh(x / 2))
    sigmoid = tail_edges("sigmoid", torch.sigmoid)
    assert (half.low, half.high) == (
        pytest.approx(sigmoid.low, rel=1e-12),
        pytest.approx(sigmoid.high, rel=1e-12),
    )


def test_a_bump_has_two_tails() -> None:
    steep = math.sqrt(2 / math.e)
    expected = optimize.brentq(lambda x: 2 * x * math.exp(-x * x) - TAU * steep, 1, 5)
    edges = tail_edges("bump", lambda x: torch.exp(-x * x))
    assert (edges.low, edges.high) == (pytest.approx(-expected, abs=1e-6), pytest.approx(expected, abs=1e-6))
    assert (edges.minimum, edges.maximum) == (pytest.approx(0), pytest.approx(1))


class Clipped(torch.autograd.Function):
    """A hard clip whose gradient passes up to three times as far."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 3)


def test_a_custom_gradient_decides() -> None:
    edges = tail_edges("clipped", Clipped.apply)
    assert (edges.low, edges.high) == (pytest.approx(-3, abs=1e-9), pytest.approx(3, abs=1e-9))
    assert edges.squashes


@pytest.mark.parametrize(
    "function",
    [
        torch.sin,
        lambda x: x + torch.sin(x).square(),
        torch.abs,
        lambda x: 3 * x,
        torch.zeros_like,
        lambda x: (x > 0).to(x.dtype),
        lambda x: torch.ones_like(x) * 0 + 2,
        torch.square,
    ],
    ids=["sine", "snake", "absolute", "linear", "zero", "step", "constant", "square"],
)
def test_functions_without_tails(function: Callable[[Tensor], Tensor]) -> None:
    edges = tail_edges("custom", function)
    assert (edges.low, edges.high, edges.has_tails, edges.squashes) == (None, None, False, False)


def test_a_threshold_of_its_own() -> None:
    assert tail_edges("hardtanh", nn.Hardtanh(-2, 0.5)).low == pytest.approx(-2, abs=1e-9)
    assert tail_edges("elu", nn.ELU(2.0)).low == pytest.approx(math.log(TAU), abs=1e-6)
    assert tail_edges("celu", nn.CELU(2.0)).low == pytest.approx(2 * math.log(TAU), abs=1e-6)
    assert tail_edges("softplus", nn.Softplus(beta=2)).low == pytest.approx(LOGIT / 2, abs=1e-6)


def test_which_functions_squash() -> None:
    squashing = {name for name, known in KNOWN.items() if tail_edges(name, known.forms[0]).squashes}
    assert squashing == {"sigmoid", "tanh", "softsign", "hardtanh", "hardsigmoid"}


def test_which_functions_are_odd() -> None:
    odd = {name for name, known in KNOWN.items() if tail_edges(name, known.forms[0]).odd}
    assert odd == {"tanh", "softsign", "hardtanh", "tanhshrink", "softshrink", "hardshrink"}


@pytest.mark.parametrize(
    ("name", "minimum", "maximum"),
    [("tanh", -1, 1), ("sigmoid", 0, 1), ("relu6", 0, 6), ("relu", 0, math.inf), ("elu", -1, math.inf),
     ("logsigmoid", -math.inf, 0), ("tanhshrink", -math.inf, math.inf), ("softsign", -1, 1)],
)  # fmt: skip
def test_range(name: str, minimum: float, maximum: float) -> None:
    edges = tail_edges(name, KNOWN[name].forms[0])
    assert (edges.minimum, edges.maximum) == (
        pytest.approx(minimum, abs=1e-5),
        pytest.approx(maximum, abs=1e-5),
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_can_be_off(mode) -> None:
    with mode():
        assert tail_edges("relu", nn.ReLU(inplace=True)).low == pytest.approx(0.0, abs=1e-12)


def test_parameters_of_the_activation_get_no_gradient() -> None:
    prelu = nn.PReLU().double()
    tail_edges("prelu", prelu)
    assert prelu.weight.grad is None
