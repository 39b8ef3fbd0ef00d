"""Whether mini-batches are alike: analysis of variance of their means, chi-square of their labels.

Sources: Fisher 1925, "Statistical methods for research workers" (intraclass correlation); Pearson 1900
(chi-square); Satterthwaite 1946, "An approximate distribution of estimates of variance components".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Homogeneity(NamedTuple):
    """How much more batches differ than random samples of one population would.

    Attributes:
        f: Variance of batch means over what sampling brings; 1 where batches are random samples.
        icc: Intraclass correlation of two samples of one batch: 0 random, 1 a batch of copies, below 0
            stratified. Does not depend on the size of the batch.
        z: How many standard deviations ``f`` is from 1.
        size: Samples in a batch, where sizes differ their weighted mean.
    """

    f: float
    icc: float
    z: float
    size: float


def homogeneity(counts: ArrayLike, means: ArrayLike, variances: ArrayLike) -> Homogeneity | None:
    """One-way analysis of variance, pooled over features.

    F = N V_b / W with V_b the variance of batch means and W the variance within batches;
    ICC = (F - 1) / (F + N - 1); z = (F - 1) / sqrt(2 / ((B - 1) r)), where r = tr(C)^2 / tr(C^2), with C the
    covariance of batch means, is how many independent features there are.

    Args:
        counts: [B] samples in each batch.
        means: [B, C] mean of each feature.
        variances: [B, C] unbiased variance of each feature within the batch; ignored where a batch has one
            sample.

    Returns:
        None where nothing can be said: one batch, or batches of one sample.
    """
    n = np.asarray(counts, dtype=np.float64)
    m, w = np.asarray(means, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    batches, inside = len(n), n - 1
    if batches < 2 or inside.sum() <= 0:
        return None
    size = (n.sum() - np.square(n).sum() / n.sum()) / (batches - 1)
    deviations = m - n @ m / n.sum()
    between = float(n @ np.square(deviations).sum(1)) / (batches - 1)
    within = float(inside @ np.where(inside[:, None] > 0, w, 0.0).sum(1) / inside.sum())
    if between == 0 and within == 0:
        return None
    f = between / within if within > 0 else math.inf
    icc = (f - 1) / (f + size - 1) if math.isfinite(f) else 1.0
    gram = deviations @ deviations.T
    energy = float(np.square(gram).sum())
    independent = float(np.trace(gram)) ** 2 / energy if energy > 0 else 1.0
    return Homogeneity(f, icc, (f - 1) / math.sqrt(2 / ((batches - 1) * independent)), float(size))


class Dispersion(NamedTuple):
    """How unlike the labels of batches are.

    Attributes:
        ratio: Chi-square over its degrees of freedom: 1 random, 0 stratified, large where batches hold few
            classes each.
        freedom: Degrees of freedom.
        classes: Classes seen in a batch, on average.
    """

    ratio: float
    freedom: int
    classes: float


def label_dispersion(table: ArrayLike) -> Dispersion | None:
    """Chi-square test of homogeneity on counts of labels.

    Args:
        table: [B, K] how often each batch holds each label.

    Returns:
        None with fewer than two batches or two labels.
    """
    t = np.asarray(table, dtype=np.float64)
    t = t[t.sum(1) > 0][:, t.sum(0) > 0]
    freedom = (t.shape[0] - 1) * (t.shape[1] - 1)
    if freedom <= 0:
        return None
    expected = np.outer(t.sum(1), t.sum(0)) / t.sum()
    chi2 = float((np.square(t - expected) / expected).sum())
    return Dispersion(chi2 / freedom, freedom, float((t > 0).sum(1).mean()))
