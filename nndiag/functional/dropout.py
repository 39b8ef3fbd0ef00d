"""What a dropout layer leaves: kept units, sub-networks, effective degrees of freedom.

Least squares on features under inverted dropout is ridge regression with penalty (p / q) diag(A'A): the trace
of its hat matrix counts the degrees of freedom that a linear readout can still use.
Sources: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting"; Wager,
Wang, Liang 2013, "Dropout training as adaptive regularization"; Li et al. 2019, "Understanding the disharmony
between dropout and batch normalization by variance shift".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

GRID = (0.0, 0.1, 0.2, 0.3, 0.5)
"""Drop probabilities in common use, for the what-if curve."""


class Kept(NamedTuple):
    """What is left of N units.

    Attributes:
        mean: N q units on average.
        sd: sqrt(N p q).
        log2_subnetworks: N where masks are drawn at all, else 0.
        entropy_bits: N H2(p), the entropy of the mask.
        none: p^N, the probability that all are off.
    """

    mean: float
    sd: float
    log2_subnetworks: float
    entropy_bits: float
    none: float


def kept_units(units: int, p: float) -> Kept:
    """Counts what a mask keeps.

    Args:
        units: N.
        p: Probability of being dropped.
    """
    q = 1 - p
    drawn = 0 < p < 1
    entropy = -(p * math.log2(p) + q * math.log2(q)) if drawn else 0.0
    return Kept(
        units * q, math.sqrt(units * p * q), float(units) if drawn else 0.0, units * entropy, p**units
    )


def effective_dof(eigenvalues: ArrayLike, p: float) -> float:
    """d_eff(p) = sum_i lam_i / (lam_i + p / q), from 0 to the rank.

    Args:
        eigenvalues: Of D^-1/2 Cov(a) D^-1/2 with D = E[a^2], a the input of the dropout without masks.
        p: Probability of being dropped; 1 leaves nothing.
    """
    lam = np.clip(np.asarray(eigenvalues, dtype=float), 0.0, None)
    if p >= 1:
        return 0.0
    if p <= 0:
        return float((lam > 1e-10 * lam.max(initial=0.0)).sum())
    return float((lam / (lam + p / (1 - p))).sum())


def what_if(eigenvalues: ArrayLike, grid: Sequence[float] = GRID) -> dict[float, float]:
    """d_eff over drop probabilities, at the same activations.

    Args:
        eigenvalues: As in ``effective_dof``.
        grid: Drop probabilities.
    """
    return {p: effective_dof(eigenvalues, p) for p in grid}


def largest_safe_p(eigenvalues: ArrayLike, needed: float) -> float:
    """The largest p of the grid that leaves at least ``needed`` degrees of freedom; 0 when none does.

    Args:
        eigenvalues: As in ``effective_dof``.
        needed: Degrees of freedom that the outputs take: one less than the classes.
    """
    return max((p for p, left in what_if(eigenvalues).items() if left >= needed), default=0.0)


def variance_shift(mean: ArrayLike, variance: ArrayLike, p: float) -> np.ndarray:
    """Var(eval) / Var(train) = q s^2 / (s^2 + p m^2) of units behind a dropout.

    Args:
        mean: [C] m, without masks.
        variance: [C] s^2, without masks.
        p: Probability of being dropped.
    """
    m, v = np.asarray(mean, dtype=float), np.asarray(variance, dtype=float)
    with np.errstate(all="ignore"):
        return np.asarray((1 - p) * v / (v + p * m * m))
