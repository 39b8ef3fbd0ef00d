"""How alike the most alike pair of random directions is.

For two independent uniform directions in d dimensions, c^2 follows Beta(1/2, (d - 1)/2); over N = n (n - 1)/2
pairs the largest exceeds t with probability 1 - exp(-N P(|c| > t)).
Source: Cai, Fan, Jiang 2013, "Distributions of angles in random packing on spheres".
"""

from __future__ import annotations

import math

from scipy import special


def max_cosine_quantile(units: int, dims: int, alpha: float) -> float:
    """The largest |cosine| that n random directions exceed with probability ``alpha``.

    Args:
        units: n, at least 2.
        dims: d.
        alpha: Significance.
    """
    if dims < 2:
        return 1.0
    tail = -math.log1p(-alpha) / (units * (units - 1) / 2)
    if tail >= 1:
        return 0.0
    return math.sqrt(float(special.betainccinv(0.5, (dims - 1) / 2, tail)))


def max_cosine_pvalue(cosine: float, units: int, dims: int) -> float:
    """The probability that n random directions hold a pair at least this alike.

    Args:
        cosine: The largest |cosine| seen.
        units: n.
        dims: d.
    """
    if dims < 2:
        return 1.0
    tail = float(special.betaincc(0.5, (dims - 1) / 2, min(cosine * cosine, 1.0)))
    return -math.expm1(-units * (units - 1) / 2 * tail)
