"""FeatureScales: how unlike the features are that one normalization squeezes into one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from nndiag.functional import SignalGain, signal_gain
from nndiag.statistics.base import Statistic
from nndiag.statistics.moments import Moments

Reduction = Literal["layer", "rms", "group"]
"""What one mean and scale is taken over: the features of a position; the same without a mean; the features of
a group and all positions."""


def centered(x: Tensor, reduction: Reduction, groups: int = 1) -> Tensor:
    """[N, S, G, C / G] of the input, without the mean that the layer takes off.

    Args:
        x: [N, S, C].
        reduction: The kind of layer.
        groups: G, for group normalization.
    """
    x = x.unflatten(-1, (groups, -1))
    if reduction == "rms":
        return x
    over = (1, 3) if reduction == "group" else 3
    x = x - x.mean(over, keepdim=True)
    return x - x.mean(over, keepdim=True)  # where the mean is far from zero, its rounding is not small


@dataclass(frozen=True, slots=True, eq=False)
class FeatureScales(Statistic):
    """Moments of each feature over samples and positions, after ``centered``.

    Attributes:
        n: [] entries of each feature.
        mean: [G, H].
        m2: [G, H] sums of squared deviations.
        low: [G, H] smallest entries.
        high: [G, H] largest entries.
        samples: [] samples.
    """

    name: ClassVar[str] = "feature_scales"
    n: Tensor
    mean: Tensor
    m2: Tensor
    low: Tensor
    high: Tensor
    samples: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Moments as of any layer's units.

        Args:
            x: [N, S, G, H] from ``centered``; NaN and infinite entries count as zero.
        """
        x = x.nan_to_num(0.0, 0.0, 0.0)
        moments = Moments.of(x.flatten(2))
        return cls(
            n=torch.tensor(x.shape[0] * x.shape[1]),
            mean=moments.mean.reshape(x.shape[2:]),
            m2=moments.m2.reshape(x.shape[2:]),
            low=x.amin((0, 1)),
            high=x.amax((0, 1)),
            samples=torch.tensor(x.shape[0]),
        )

    def merge(self, other: Self) -> Self:
        """Moments by the rule of Chan et al., extremes by comparison."""
        self._check(other)
        n = self.n + other.n
        delta = other.mean - self.mean
        return type(self)(
            n=n,
            mean=self.mean + delta * other.n / n,
            m2=self.m2 + other.m2 + delta.square() * self.n * other.n / n,
            low=torch.minimum(self.low, other.low),
            high=torch.maximum(self.high, other.high),
            samples=self.samples + other.samples,
        )

    @property
    def variance(self) -> Tensor:
        """[G, H] over samples and positions (biased)."""
        return self.m2 / self.n

    @property
    def gains(self) -> tuple[SignalGain, ...]:
        """[G] signal gain of each group."""
        pairs = zip(self.mean.numpy(), self.variance.numpy(), strict=True)
        return tuple(signal_gain(mean, variance) for mean, variance in pairs)

    @property
    def reaches(self) -> tuple[SignalGain, ...]:
        """[G] the same with half the range of each feature for its standard deviation.

        A feature that is rarely on has a small variance, but is as large as others when it is on.
        """
        reach = ((self.high - self.low) / 2).square().numpy()
        pairs = zip(self.mean.numpy(), reach, strict=True)
        return tuple(signal_gain(0 * mean, square) for mean, square in pairs)
