"""Moments: mean and variance of each unit, over entries and over samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.sizes import exponents, is_on_host

_MODERATE = 30
"""Powers of two of a unit's size, up to which its squares stay well within float32."""

_BLOCK = 1 << 17
"""Entries that are centered at a time: a buffer that stays in the cache, and is not fetched from the system anew."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments(Statistic):
    """Count, mean and sum of squared deviations of each unit, over entries and over per-sample means.

    Merged by the rule of Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance": with
    d = mean_B - mean_A and n = n_A + n_B, mean = mean_A + d n_B / n and M2 = M2_A + M2_B + d^2 n_A n_B / n.

    Attributes:
        n: [C] finite entries.
        mean: [C].
        m2: [C] sum of squared deviations.
        k: [] samples.
        cluster_mean: [C] mean of per-sample means.
        cluster_m2: [C] their sum of squared deviations.
        non_finite: [C] NaN and infinite entries, left out of everything else.
    """

    name: ClassVar[str] = "moments"
    n: Tensor
    mean: Tensor
    m2: Tensor
    k: Tensor
    cluster_mean: Tensor
    cluster_m2: Tensor
    non_finite: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Two corrected passes in the precision of ``x``, scaled by a power of two against overflow.

        Args:
            x: [N, S, C] samples, positions, units.
        """
        x = x.detach()
        plain = cls._of_plain(x) if is_on_host(x) else None
        return cls._of_any(x) if plain is None else plain

    @classmethod
    def _of_plain(cls, x: Tensor) -> Self | None:
        """Where all is finite and of moderate size: no mask, no scaling, no copy of the whole; None elsewhere."""
        samples, positions, units = x.shape
        count = samples * positions
        if not count * units:
            return None
        mean = x.sum((0, 1)) / count
        sums, rest, m2 = _centered_sums(x, mean)
        square = m2 / count + mean.double().square()
        is_moderate = (square > 4.0**-_MODERATE) & (square < 4.0**_MODERATE)
        if not bool(is_moderate.all()) and not bool((is_moderate | (_peak(x) == 0)).all()):
            return None
        m2 = (m2 - rest.square() / count).clamp(min=0)
        center, cluster_m2 = rest / count, m2
        if positions > 1:
            means = sums / positions
            center = means.sum(0).double() / samples
            cluster_m2 = (means - center.to(means.dtype)).square().sum(0).double()
        return cls(
            n=torch.full((units,), count),
            mean=mean.double() + rest / count,
            m2=m2,
            k=torch.tensor(samples),
            cluster_mean=mean.double() + center,
            cluster_m2=cluster_m2,
            non_finite=torch.zeros(units, dtype=torch.int64),
        )

    @classmethod
    def _of_any(cls, x: Tensor) -> Self:
        samples, positions, units = x.shape
        n = torch.full((units,), samples * positions, dtype=torch.int64, device=x.device)
        non_finite, finite = torch.zeros_like(n), None
        peaks = _peak(x)
        if not is_on_host(x) or not bool(peaks.isfinite().all()):
            finite = x.isfinite()
            non_finite = (~finite).sum((0, 1))
            n = n - non_finite
            x = torch.where(finite, x, 0)
            peaks = _peak(x)
        exponent = exponents(peaks)
        x = torch.ldexp(x, -exponent)
        count = n.clamp(min=1)
        mean = x.sum((0, 1)) / count
        centered = x - mean if finite is None else torch.where(finite, x - mean, 0)
        sums = centered.sum(1) if positions != 1 else centered.squeeze(1)
        rest = sums.sum(0)
        m2 = (centered.square().sum((0, 1)) - rest.square() / count).clamp(min=0)
        filled = max(1, positions) if finite is None else finite.sum(1).clamp(min=1)
        means = sums / filled
        center = means.sum(0) / max(1, samples)
        cluster_m2 = (means - center).square().sum(0)
        return cls(
            n=n,
            mean=_unscale(mean.double() + rest.double() / count, exponent),
            m2=_unscale(m2, 2 * exponent),
            k=torch.tensor(samples, dtype=torch.int64, device=x.device),
            cluster_mean=_unscale(mean.double() + center.double(), exponent),
            cluster_m2=_unscale(cluster_m2, 2 * exponent),
            non_finite=non_finite,
        )

    def merge(self, other: Self) -> Self:
        """Moments of both sets of data together."""
        self._check(other)
        n, mean, m2 = _chan(self.n, self.mean, self.m2, other.n, other.mean, other.m2)
        k, cluster_mean, cluster_m2 = _chan(
            *(self.k, self.cluster_mean, self.cluster_m2),
            *(other.k, other.cluster_mean, other.cluster_m2),
        )
        return type(self)(n, mean, m2, k, cluster_mean, cluster_m2, self.non_finite + other.non_finite)

    @property
    def variance(self) -> Tensor:
        """[C] variance over entries (biased)."""
        return self.m2 / self.n.clamp(min=1)

    @property
    def mean_square(self) -> float:
        """E[x^2] over all entries of all units."""
        entries = int(self.n.sum())
        return float((self.m2 + self.n * self.mean.square()).sum()) / entries if entries else 0.0

    @property
    def sample_variance(self) -> Tensor:
        """[C] variance of per-sample means (unbiased)."""
        return self.cluster_m2 / (self.k - 1).clamp(min=1)

    @property
    def se2(self) -> Tensor:
        """[C] squared standard error of the mean; positions of one sample are not independent."""
        return self.sample_variance / self.k.clamp(min=1)

    @property
    def effective_samples(self) -> Tensor:
        """[C] variance / se2: how many independent entries would give the same standard error."""
        return self.variance / self.se2

    def resolution_limited(self, dtype: torch.dtype) -> Tensor:
        """[C] whether a unit's spread is below what ``dtype`` resolves at its mean."""
        return self.variance.sqrt() < self.mean.abs() * torch.finfo(dtype).eps / 2


def _centered_sums(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, C] sums over positions of x - mean, [C] their sum, and [C] the sum of squares; block by block.

    Sums over positions are not made where there is one only.
    """
    samples, positions, units = x.shape
    sums = x.new_zeros(samples, units) if positions > 1 else x.new_zeros(0)
    rest, m2 = (torch.zeros(units, dtype=torch.float64) for _ in range(2))
    rows = max(1, _BLOCK // (positions * units))
    places = positions if positions * units <= _BLOCK else max(1, _BLOCK // units)
    buffers: dict[torch.Size, Tensor] = {}
    for start in range(0, samples, rows):
        for block in x[start : start + rows].split(places, 1):
            if block.shape not in buffers:
                buffers[block.shape] = torch.empty_like(block)
            centered = torch.sub(block, mean, out=buffers[block.shape])
            if positions > 1:
                sums[start : start + rows] += centered.sum(1)
            else:
                rest += centered.sum((0, 1))
            m2 += centered.square_().sum((0, 1))
    return sums, rest if positions == 1 else sums.sum(0).double(), m2


def _peak(x: Tensor) -> Tensor:
    """[C] largest size of each unit; 0 where nothing was seen."""
    return torch.maximum(x.amax((0, 1)), -x.amin((0, 1))) if x.numel() else x.new_zeros(x.shape[-1])


def _unscale(value: Tensor, exponent: Tensor) -> Tensor:
    """In float64 where there is one, since squares leave float32's range first."""
    wide = value.double() if value.device.type != "mps" else value
    return torch.ldexp(wide, exponent)


def _chan(
    n_a: Tensor, mean_a: Tensor, m2_a: Tensor, n_b: Tensor, mean_b: Tensor, m2_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = n_a + n_b
    total = n.clamp(min=1)
    delta = mean_b - mean_a
    mean = mean_a + delta * n_b / total
    return n, mean, m2_a + m2_b + delta.square() * n_a * n_b / total
