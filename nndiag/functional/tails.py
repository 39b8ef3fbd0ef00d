"""Tail edges: where an activation function becomes flat, for good."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

TAU = 0.05
"""A tail is where the slope stays below this share of the steepest one."""

ELEMENTWISE = frozenset(
    [
        "relu",
        "relu6",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "sigmoid",
        "tanh",
        "softplus",
        "softsign",
        "hardtanh",
        "hardsigmoid",
        "hardswish",
        "logsigmoid",
        "leaky_relu",
        "prelu",
        "rrelu",
        "threshold",
        "tanhshrink",
        "softshrink",
        "hardshrink",
    ]
)
"""Canonical names of torch's elementwise activation functions."""

_FAR = 1e6


@dataclass(frozen=True, slots=True)
class TailEdges:
    """The tails of an activation function f.

    Attributes:
        name: Canonical name.
        low: The lower tail is x <= low; None: there is none.
        high: The upper tail is x >= high; None: there is none.
        max_slope: sup |f'|.
        minimum: inf f, -inf when unbounded.
        maximum: sup f, inf when unbounded.
        odd: Whether f(-x) = -f(x).
        function: f itself.
    """

    name: str
    low: float | None
    high: float | None
    max_slope: float
    minimum: float
    maximum: float
    odd: bool
    function: Callable[[Tensor], Tensor] = field(repr=False, compare=False)

    @property
    def squashes(self) -> bool:
        """Whether f is bounded with a tail on both sides of zero, as tanh is and ReLU6 is not."""
        two_tails = self.low is not None and self.high is not None and self.low < 0 < self.high
        return two_tails and math.isfinite(self.minimum) and math.isfinite(self.maximum)

    @property
    def has_tails(self) -> bool:
        """Whether there is a tail on some side."""
        return self.low is not None or self.high is not None


def tail_edges(name: str, function: Callable[[Tensor], Tensor]) -> TailEdges:
    """Finds the tail edges of an elementwise function by automatic differentiation.

    The tails are what lies outside the smallest interval [low, high] beyond which |f'(x)| < 0.05 sup |f'|
    everywhere. A side whose slope does not tend to zero (leaky ReLU) has no tail. Grid of 60,001 points on
    [-30, 30] in double precision, then the crossing cell refined to double precision.

    Args:
        name: Canonical name, for messages.
        function: f; maps a tensor of any shape entry by entry, must be differentiable by autograd.
    """
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    slope = _slope(function, x)
    far = _slope(function, torch.tensor([-_FAR, _FAR], dtype=torch.float64))
    steepest = float(slope.max())
    limit = TAU * steepest
    steep = (slope >= limit).nonzero().flatten()
    first, last = (int(steep[0]), int(steep[-1])) if len(steep) else (0, len(x) - 1)
    low = high = None
    if first > 0 and float(far[0]) < 1e-6 * steepest:
        low = _crossing(function, limit, float(x[first - 1]), float(x[first]))
    if last < len(x) - 1 and float(far[1]) < 1e-6 * steepest:
        high = _crossing(function, limit, float(x[last + 1]), float(x[last]))
    minimum, maximum = _range(function, x)
    with torch.no_grad():
        odd = torch.allclose(function(-x), -function(x.clone()), rtol=1e-9, atol=1e-12)
    return TailEdges(name, low, high, steepest, minimum, maximum, odd, function)


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """|f'| at each point; 0 where f does not depend on x, or autograd cannot follow it, as with steps."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        y = function(leaf.clone())
        (gradient,) = torch.autograd.grad(y.sum() + 0 * leaf.sum(), leaf)
    return gradient.abs().nan_to_num()


def _crossing(function: Callable[[Tensor], Tensor], limit: float, flat: float, steep: float) -> float:
    """The point between a flat and a steep one where the slope first reaches ``limit``."""
    for _ in range(5):
        x = torch.linspace(flat, steep, 1001, dtype=torch.float64)
        reached = _slope(function, x) >= limit
        reached[-1] = True
        first = int(reached.double().argmax())
        flat, steep = float(x[max(first - 1, 0)]), float(x[first])
    return 0.0 if abs(steep) < 1e-12 else steep


def _range(function: Callable[[Tensor], Tensor], grid: Tensor) -> tuple[float, float]:
    ends = torch.tensor([-_FAR, _FAR], dtype=torch.float64)
    with torch.no_grad():
        y, far = function(grid.clone()), function(ends.clone())
    minimum = -math.inf if float(far.min()) < -1e3 else min(float(y.min()), float(far.min()))
    maximum = math.inf if float(far.max()) > 1e3 else max(float(y.max()), float(far.max()))
    return minimum, maximum
