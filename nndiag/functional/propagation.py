"""How signals and gradients change through depth.

Sources: Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos";
Schoenholz et al. 2017, "Deep information propagation".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def gradient_ratios(mean_squares: Sequence[float]) -> list[float]:
    """chi_l = E[delta_l^2] / E[delta_{l+1}^2] of consecutive layers, in order of depth.

    A layer after which nothing arrives (0 / 0) has ratio 1: it is not the one that stopped it.

    Args:
        mean_squares: E[delta_l^2], the mean square gradient at the output of each layer.
    """
    ratios = []
    for here, after in itertools.pairwise(mean_squares):
        ratios.append(here / after if after > 0 else 1.0 if here == 0 else math.inf)
    return ratios


def total_gain(mean_squares: Sequence[float]) -> float:
    """G = E[delta_first^2] / E[delta_last^2]: what is left of the gradient at the first layer.

    Args:
        mean_squares: As in ``gradient_ratios``; at least one.
    """
    first, last = mean_squares[0], mean_squares[-1]
    return first / last if last > 0 else 1.0 if first == 0 else math.inf


def variance_share(mean: float, variance: float) -> float:
    """Var(z) / E[z^2] over samples: what of a layer's signal tells samples apart.

    Args:
        mean: Mean over units of the squared mean over samples.
        variance: Mean over units of the variance over samples.
    """
    total = mean + variance
    return variance / total if total > 0 else 0.0
