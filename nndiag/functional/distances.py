"""How far two sets of moments are apart: distances between the Gaussians that fit them, unit by unit.

Sources: Hellinger 1909, "Neue Begruendung der Theorie quadratischer Formen von unendlichvielen
Veraenderlichen"; Jeffreys 1946, "An invariant form for the prior probability in estimation problems".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

NORMAL_KURTOSIS = 3.0

_LARGEST_LOG = 350.0
"""Beyond a ratio of standard deviations of e^350 the distance is 1 to the last digit."""


def hellinger2(mean0: ArrayLike, variance0: ArrayLike, mean1: ArrayLike, variance1: ArrayLike) -> Array:
    """Squared Hellinger distance of two Gaussians: 0 the same, 1 nothing in common.

    H2 = 1 - sqrt(2 s0 s1 / (v0 + v1)) exp(-(m1 - m0)^2 / (4 (v0 + v1))), with s = sqrt(v); for small changes
    H2 = d^2 / 8 + l^2 / 4, with d and l from ``mean_shift`` and ``scale_shift``. Computed without taking a
    difference of nearly equal numbers.

    Args:
        mean0: [C] means there.
        variance0: [C] variances there. Two constants are at distance 0 if equal, else 1; a constant and
            anything else are at distance 1.
        mean1: [C] means here.
        variance1: [C] variances here.
    """
    m0, v0, m1, v1 = _arrays(mean0, variance0, mean1, variance1)
    with np.errstate(all="ignore"):
        spread = np.log1p(2 * np.sinh(_half_log(v0, v1)) ** 2)
        distance = -np.expm1(-(spread / 2) - (m1 - m0) ** 2 / (4 * (v0 + v1)))
    distance = np.where((v0 == 0) ^ (v1 == 0), 1.0, distance)
    return np.where((v0 == 0) & (v1 == 0), np.where(m0 == m1, 0.0, 1.0), distance)


def jeffreys(mean0: ArrayLike, variance0: ArrayLike, mean1: ArrayLike, variance1: ArrayLike) -> Array:
    """Jeffreys divergence, KL(0 || 1) + KL(1 || 0), of two Gaussians: 0 the same, without an upper bound.

    Args:
        mean0: [C] means there.
        variance0: [C] variances there; constants are at 0 from their equals, else infinitely far.
        mean1: [C] means here.
        variance1: [C] variances here.
    """
    m0, v0, m1, v1 = _arrays(mean0, variance0, mean1, variance1)
    with np.errstate(all="ignore"):
        scale = 2 * np.sinh(2 * _half_log(v0, v1)) ** 2
        divergence = scale + (m1 - m0) ** 2 * (1 / v0 + 1 / v1) / 2
    divergence = np.where((v0 == 0) | (v1 == 0), math.inf, divergence)
    return np.where((v0 == 0) & (v1 == 0) & (m0 == m1), 0.0, divergence)


def mean_shift(mean0: ArrayLike, variance0: ArrayLike, mean1: ArrayLike, variance1: ArrayLike) -> Array:
    """How far means moved, in standard deviations: d = (m1 - m0) / sqrt((v0 + v1) / 2).

    Args:
        mean0: [C] means there.
        variance0: [C] variances there.
        mean1: [C] means here.
        variance1: [C] variances here. Equal constants moved by 0, unlike ones infinitely far.
    """
    m0, v0, m1, v1 = _arrays(mean0, variance0, mean1, variance1)
    with np.errstate(all="ignore"):
        shift = (m1 - m0) / np.sqrt((v0 + v1) / 2)
    return np.where(m0 == m1, 0.0, shift)


def scale_shift(variance0: ArrayLike, variance1: ArrayLike) -> Array:
    """The change of scale, l = ln(s1 / s0); 0 between two constants.

    Args:
        variance0: [C] variances there.
        variance1: [C] variances here.
    """
    v0, v1 = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (variance0, variance1)))
    with np.errstate(all="ignore"):
        shift = (np.log(v1) - np.log(v0)) / 2
    return np.where((v0 == 0) & (v1 == 0), 0.0, shift)


def sigma_equiv(distance: float) -> float:
    """sqrt(8 H2): the pure shift of a mean, in standard deviations, that would give this distance.

    Args:
        distance: A squared Hellinger distance.
    """
    return math.sqrt(8 * max(distance, 0.0))


def hellinger2_floor(
    effective0: ArrayLike, effective1: ArrayLike = math.inf, kurtosis: ArrayLike = NORMAL_KURTOSIS
) -> Array:
    """What H2 is on average between two samples of one law: (kurtosis + 1) / 16 (1 / n0 + 1 / n1).

    Args:
        effective0: [C] effective number of independent samples there.
        effective1: [C] effective number here; infinite where the moments are known exactly.
        kurtosis: [C] E[(x - m)^4] / v^2, 3 for a Gaussian.
    """
    n0, n1, k = (np.asarray(value, dtype=np.float64) for value in (effective0, effective1, kurtosis))
    with np.errstate(all="ignore"):
        return np.asarray((k + 1) / 16 * (1 / n0 + 1 / n1))


def debiased(distance: float, floor: float) -> float:
    """A mean H2 without what sampling noise alone brings: max(0, (S - E0) / (1 - E0)).

    Args:
        distance: Mean squared Hellinger distance S of a layer.
        floor: Its mean E0 between two samples of one law; at 1 or above nothing can be said: 0.
    """
    return max(0.0, (distance - floor) / (1 - floor)) if floor < 1 else 0.0


def _arrays(*values: ArrayLike) -> tuple[Array, ...]:
    return tuple(np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in values)))


def _half_log(v0: Array, v1: Array) -> Array:
    """ln(s1 / s0) / 2, kept where its hyperbolic sine squared is a number."""
    return np.clip((np.log(v1) - np.log(v0)) / 4, -_LARGEST_LOG, _LARGEST_LOG)
