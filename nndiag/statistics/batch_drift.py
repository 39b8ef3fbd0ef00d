"""BatchDrift: how far real batches are from the running statistics that stand in for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.moments import Moments


class Running(NamedTuple):
    """The running statistics of a normalization layer before it sees a batch.

    Attributes:
        mean: [C].
        variance: [C].
        tracked: [] batches seen so far; None: not counted.
        momentum: Weight of the newest batch; None: a cumulative average.
        eps: What is added to variances.
    """

    mean: Tensor
    variance: Tensor
    tracked: Tensor | None
    momentum: float | None
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class BatchDrift(Statistic):
    """Sums over batches.

    With y_i the mean over positions of sample i, m their mean over a batch of N, w their unbiased variance:
    z2 = sum_u (m_u - running mean_u)^2 / sum_u w_u (1 + a / (2 - a)) / N is 1 on average where batches are
    random samples and weights stand still; a / (2 - a) is the noise of the running mean itself.

    Attributes:
        batches: [] batches.
        samples: [] samples.
        values: [] values behind one mean: samples times positions.
        observed: [] sum over batches of the numerator of z2.
        expected: [] sum over batches of its denominator.
        offset: [] sum of the 99% quantile over units of |m - running mean| / running sd, d of batch
            renormalization.
        log_scale: [] sum of that quantile of |ln(sd / running sd)|, ln r of batch renormalization.
        distance: [] sum of the mean squared Hellinger distance of batch and running moments.
        floor: [] sum of what that distance is by chance, for Gaussian values.
        tracked: [] batches that the running statistics had seen before the first of these; -1: not counted.
    """

    name: ClassVar[str] = "batch_drift"
    batches: Tensor
    samples: Tensor
    values: Tensor
    observed: Tensor
    expected: Tensor
    offset: Tensor
    log_scale: Tensor
    distance: Tensor
    floor: Tensor
    tracked: Tensor

    @classmethod
    def of(cls, x: Tensor, running: Running) -> Self:
        """Compares one batch, before the running statistics take it in.

        Args:
            x: [N, S, C] input of the layer.
            running: What the layer remembers.
        """
        count, positions, _ = x.shape
        moments = Moments.of(x)
        mean, spread, variance = moments.cluster_mean, moments.sample_variance, moments.variance
        known = running.tracked
        tracked = torch.tensor(-1) if known is None else known.detach().clone()
        a = running.momentum if running.momentum is not None else 1 / (tracked.clamp(min=0) + 1)
        old, kept = running.mean.detach().to(mean.dtype), running.variance.detach().to(mean.dtype)
        wide, narrow = kept + running.eps, variance + running.eps
        distance, by_chance = _distance(mean - old, narrow, wide, spread / count, variance > 0)
        return cls(
            batches=torch.tensor(1),
            samples=torch.tensor(count),
            values=torch.tensor(count * positions),
            observed=(mean - old).square().sum() if count > 1 else torch.zeros(()),
            expected=(spread / count * (1 + a / (2 - a))).sum() if count > 1 else torch.zeros(()),
            offset=_high((mean - old).abs() / wide.sqrt()),
            log_scale=_high((narrow / wide).log().abs() / 2),
            distance=distance,
            floor=by_chance,
            tracked=tracked,
        )

    def merge(self, other: Self) -> Self:
        """Sums add."""
        self._check(other)
        mine, theirs = self.to_tensors(), other.to_tensors()
        added = {name: mine[name] + theirs[name] for name in mine if name != "tracked"}
        return type(self)(tracked=torch.minimum(self.tracked, other.tracked), **added)

    @property
    def z2(self) -> float:
        """1 where running statistics stand for the batches; NaN with single samples."""
        return float(self.observed) / float(self.expected) if float(self.expected) > 0 else float("nan")

    @property
    def batch_size(self) -> float:
        """Mean samples in a batch."""
        return int(self.samples) / max(1, int(self.batches))

    @property
    def values_per_statistic(self) -> float:
        """Mean number of values behind one mean and one variance."""
        return int(self.values) / max(1, int(self.batches))

    def per_batch(self, total: Tensor) -> float:
        """The mean over batches of one of the sums."""
        return float(total) / max(1, int(self.batches))


def _high(values: Tensor) -> Tensor:
    return torch.quantile(values.flatten()[: 2**20], 0.99)


def _distance(
    shift: Tensor, here: Tensor, there: Tensor, error: Tensor, varies: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean over the units that vary of H2, and of its floor 1/4 (1 / n_eff) for Gaussian values."""
    half = ((here.log() - there.log()) / 4).clamp(-40, 40)
    distance = -torch.expm1(
        -torch.log1p(2 * half.sinh().square()) / 2 - shift.square() / (4 * (here + there))
    )
    units = varies.sum().clamp(min=1)
    floor = (error / here / 4).clamp(max=1)
    return (distance * varies).sum() / units, (floor * varies).sum() / units
