"""Which known law a weight matrix was drawn from, and how far it is from critical.

Sources: Glorot, Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks";
He et al. 2015, "Delving deep into rectifiers"; LeCun et al. 1998, "Efficient backprop"; Saxe et al. 2014,
"Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Family = Literal["uniform", "normal", "truncated"]

_KURTOSIS = {"uniform": 1.8, "normal": 3.0, "truncated": 2.37}


@dataclass(frozen=True, slots=True)
class Law:
    """A way to initialize: a family, and the standard deviation it gives."""

    name: str
    family: Family
    std: Callable[[int, int], float]


LAWS = (
    Law("torch default (uniform in +-1/sqrt(fan_in))", "uniform", lambda i, o: 1 / math.sqrt(3 * i)),
    Law("LeCun uniform", "uniform", lambda i, o: 1 / math.sqrt(i)),
    Law("LeCun normal", "normal", lambda i, o: 1 / math.sqrt(i)),
    Law("LeCun truncated normal", "truncated", lambda i, o: 1 / math.sqrt(i)),
    Law("Xavier uniform", "uniform", lambda i, o: math.sqrt(2 / (i + o))),
    Law("Xavier normal", "normal", lambda i, o: math.sqrt(2 / (i + o))),
    Law("He uniform (fan_in)", "uniform", lambda i, o: math.sqrt(2 / i)),
    Law("He normal (fan_in)", "normal", lambda i, o: math.sqrt(2 / i)),
    Law("He normal (fan_out)", "normal", lambda i, o: math.sqrt(2 / o)),
    Law("normal, std 0.02", "normal", lambda i, o: 0.02),
    Law("truncated normal, std 0.02", "truncated", lambda i, o: 0.02),
    Law("normal, std 0.01", "normal", lambda i, o: 0.01),
)
"""The laws in common use."""


def ks_critical(samples: int, alpha: float = 1e-3) -> float:
    """The Kolmogorov-Smirnov distance that a true law exceeds with probability ``alpha``.

    D = sqrt(-ln(alpha / 2) / 2) / (sqrt(n) + 0.12 + 0.11 / sqrt(n)) (Stephens 1970).
    """
    root = math.sqrt(samples)
    return math.sqrt(-math.log(alpha / 2) / 2) / (root + 0.12 + 0.11 / root)


UNKNOWN_LAW = "none of the known ones"
"""What is said of weights that fit no law: learned ones, as a rule."""


def fitting_laws(
    std: float, entries: int, distances: Mapping[str, float], sampled: int, fan_in: int, fan_out: int
) -> list[str]:
    """All known laws that a weight matrix may have been drawn from.

    A law is kept when the shape fits (Kolmogorov-Smirnov at 0.001 on the sampled entries, standardized) and
    the scale fits: |ln(std / law)| < 3.9 sqrt((kurtosis - 1) / (4 N)) over all N entries. Several may be
    kept: Xavier and LeCun are the same law for square matrices.

    Args:
        std: Standard deviation about zero of all entries.
        entries: N.
        distances: Kolmogorov-Smirnov distance to each family at unit variance.
        sampled: Entries behind the distances.
        fan_in: Incoming connections of a unit.
        fan_out: Outgoing connections of an input.
    """
    if std <= 0 or not entries or not sampled:
        return []
    limit = ks_critical(sampled)
    kept = []
    for law in LAWS:
        spread = math.sqrt((_KURTOSIS[law.family] - 1) / (4 * entries))
        z = math.log(std / law.std(fan_in, fan_out)) / spread
        if abs(z) < 3.9 and distances[law.family] < limit:
            kept.append(law.name)
    return kept


def critical_gain(activation: str | None) -> float:
    """fan_in Var(W) at which a wide layer neither shrinks nor grows its signal.

    1 for linear and tanh-like layers, 2 for ReLU-like ones, 16 for sigmoid (slope 1/4 at zero).
    """
    name = (activation or "").lower()
    if name in ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "gelu", "silu", "mish", "hardswish", "elu"):
        return 2.0
    return 16.0 if name in ("sigmoid", "hardsigmoid") else 1.0
