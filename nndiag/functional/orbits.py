"""Classes of equal units, and what their gradients make of them.

Two units with equal incoming weights that receive equal gradients stay equal for ever.
Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", 8.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def equal_rows(rows: Floats, tolerance: float) -> Labels:
    """Labels the classes of rows that are equal up to ``tolerance`` (an absolute Euclidean distance).

    Rows are projected on two random directions and sorted by the first; a row is compared with the
    representatives within ``tolerance`` of it on both only: O(n d + n log n) unless most rows are nearly, but
    not quite, equal.

    Args:
        rows: [n, d].
        tolerance: Largest distance to a class's representative.

    Returns:
        [n] class labels, 0 .. k-1.
    """
    count, width = rows.shape
    first, second = np.random.default_rng(0).standard_normal((2, width))
    # Summed row by row: a matrix product may round equal rows differently, which counts at tolerance zero.
    projections, others = (
        (rows * (axis / max(float(np.linalg.norm(axis)), 1e-300))).sum(axis=1) for axis in (first, second)
    )
    labels = np.full(count, -1, dtype=np.int64)
    window: list[int] = []
    classes = 0
    for row in np.argsort(projections, kind="stable"):
        window = [rep for rep in window if projections[rep] >= projections[row] - tolerance]
        close = (rep for rep in window if abs(others[rep] - others[row]) <= tolerance)
        near = next((rep for rep in close if np.linalg.norm(rows[row] - rows[rep]) <= tolerance), None)
        if near is None:
            labels[row], classes = classes, classes + 1
            window.append(int(row))
        else:
            labels[row] = labels[near]
    return labels


@dataclass(frozen=True, slots=True)
class SymmetryIndex:
    """How far n units are from being n different ones.

    Attributes:
        units: n.
        classes: k, the number of distinct units.
        index: (n - k) / (n - 1): 0 all distinct, 1 all equal.
        entropy_index: 1 - H(class shares) / ln n.
        effective: exp(H), the effective number of distinct units.
        pair_share: Share of pairs that are equal.
    """

    units: int
    classes: int
    index: float
    entropy_index: float
    effective: float
    pair_share: float


def symmetry_index(labels: Labels) -> SymmetryIndex:
    """The symmetry index of labelled units.

    Args:
        labels: [n] class labels.
    """
    n = len(labels)
    if n < 2:
        return SymmetryIndex(n, n, 0.0, 0.0, float(n), 0.0)
    counts = np.bincount(np.unique(labels, return_inverse=True)[1]).astype(float)
    shares = counts / n
    entropy = float(-(shares * np.log(shares)).sum())
    pairs = float((counts * (counts - 1)).sum() / (n * (n - 1)))
    k = len(counts)
    return SymmetryIndex(n, k, (n - k) / (n - 1), 1 - entropy / math.log(n), math.exp(entropy), pairs)


@dataclass(frozen=True, slots=True)
class UnitVerdict:
    """What will become of duplicated units.

    Attributes:
        units: n.
        distinct: Number of classes of equal weights.
        locked: Units with a twin that receives the same, non-zero gradient: they stay equal.
        stuck: Units with a twin and no gradient: nothing can part them.
        healing: Units with twins, whose gradients differ from those of all of them.
    """

    units: int
    distinct: int
    locked: int
    stuck: int
    healing: int


def judge_units(weight_classes: Labels, joint_classes: Labels, gradient_norms: Floats) -> UnitVerdict:
    """Judges duplicated units by their gradients.

    Args:
        weight_classes: [n] classes of equal weights.
        joint_classes: [n] classes of equal weights and gradients.
        gradient_norms: [n] norms of the gradients of the units.
    """
    twin, same = _shared(weight_classes), _shared(joint_classes)
    largest = float(gradient_norms.max(initial=0.0))
    still = gradient_norms <= 1e-9 * max(1.0, largest)
    return UnitVerdict(
        units=len(weight_classes),
        distinct=len(np.unique(weight_classes)),
        locked=int((twin & same & ~still).sum()),
        stuck=int((twin & still).sum()),
        healing=int((twin & ~same & ~still).sum()),
    )


def _shared(labels: Labels) -> NDArray[np.bool_]:
    """Whether a unit shares its class with another."""
    inverse = np.unique(labels, return_inverse=True)[1]
    return np.asarray(np.bincount(inverse)[inverse] > 1)
