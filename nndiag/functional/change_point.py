"""Where a series of mini-batches changes for good, and whether one rule maps the old ones to the new ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

BEFORE, AFTER = 8, 2
"""Batches that must lie on each side of a change."""


class Change(NamedTuple):
    """The place that divides a series of batch means best.

    Attributes:
        share: Of the variance of batch means, how much lies between the two sides; about 2 / B by chance.
        after: Batches since.
        agreement: Correlation over features of the means before and after: 1 or -1 where all features went through
            the same linear map, as those of another normalization do.
        slope: Of that map: -1 where signs were turned, 255 where a division by 255 is missing.
        apart: Median over features of the distance of the means, in standard deviations within a batch.
    """

    share: float
    after: int
    agreement: float
    slope: float
    apart: float


def last_change(means: ArrayLike, variances: ArrayLike) -> Change | None:
    """Divides a series of batches in two.

    Args:
        means: [B, C] mean of each feature, the oldest batch first.
        variances: [B, C] variance of each feature within the batch.

    Returns:
        None with too few batches, or where no feature's mean varies.
    """
    m, w = np.asarray(means, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    count = len(m)
    total = np.square(m - m.mean(0)).sum(0) if count else np.zeros(0)
    varying = total > 1e-12 * np.maximum(1e-300, np.square(m).sum(0)) if count else total > 0
    if count < BEFORE + AFTER or not varying.any():
        return None
    m, w, total = m[:, varying], w[:, varying], total[varying]
    sums = m.cumsum(0)
    best, place = -1.0, BEFORE
    for before in range(BEFORE, count - AFTER + 1):
        apart = (sums[-1] - sums[before - 1]) / (count - before) - sums[before - 1] / before
        share = float((np.square(apart) * before * (count - before) / count / total).mean())
        best, place = max((best, place), (share, before))
    old, new = m[:place].mean(0), m[place:].mean(0)
    agreement, slope = _line(old, new)
    spread = np.sqrt(w.mean(0))
    with np.errstate(all="ignore"):
        steps = np.where(spread > 0, np.abs(new - old) / spread, 0.0)  # batches of one sample have no spread
    return Change(best, count - place, agreement, slope, float(np.median(steps)))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Correlation and slope; nothing of fewer than eight features, which any line may fit."""
    x, y = x - x.mean(), y - y.mean()
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    if len(x) < 8 or xx <= 0 or yy <= 0:
        return 0.0, 0.0
    return xy / (xx * yy) ** 0.5, xy / xx
