"""SampleScales: the scale that a normalization divides by, over samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.view import wide


@dataclass(frozen=True, slots=True, eq=False)
class SampleScales(Statistic):
    """Moments of ln sigma over everything that is normalized by a sigma of its own.

    Attributes:
        n: [] sigmas that are finite and not zero.
        mean: [] mean of ln sigma.
        m2: [] sum of squared deviations of ln sigma.
        eps_share: [] sum of eps / (sigma^2 + eps).
        zero: [] sigmas that are exactly zero (padding, or an input that is off).
    """

    name: ClassVar[str] = "sample_scales"
    n: Tensor
    mean: Tensor
    m2: Tensor
    eps_share: Tensor
    zero: Tensor

    @classmethod
    def of(cls, x: Tensor, eps: float, *, over_positions: bool = False) -> Self:
        """Reads the scales.

        Args:
            x: [N, S, G, H] the input without the mean that the layer takes off.
            eps: What the layer adds to variances.
            over_positions: Whether one sigma spans all positions of a sample (group normalization).
        """
        square = torch.linalg.vector_norm(x, dim=3, dtype=wide(x)).square() / x.shape[3]
        square = square.mean(1) if over_positions else square
        good = square.isfinite() & (square > 0)
        n = good.sum()
        log = torch.where(good, square, 1).log() / 2
        count = n.clamp(min=1)
        mean = log.sum() / count
        return cls(
            n=n,
            mean=mean,
            m2=torch.where(good, log - mean, 0).square().sum(),
            eps_share=torch.where(good, eps / (square + eps), 0).sum(),
            zero=(square == 0).sum(),
        )

    def merge(self, other: Self) -> Self:
        """Moments by the rule of Chan et al."""
        self._check(other)
        n = self.n + other.n
        total = n.clamp(min=1)
        delta = other.mean - self.mean
        return type(self)(
            n=n,
            mean=self.mean + delta * other.n / total,
            m2=self.m2 + other.m2 + delta.square() * self.n * other.n / total,
            eps_share=self.eps_share + other.eps_share,
            zero=self.zero + other.zero,
        )

    @property
    def spread(self) -> float:
        """Standard deviation of ln sigma."""
        return float((self.m2 / self.n.clamp(min=1)).sqrt())

    @property
    def eps_fraction(self) -> float:
        """Mean share of eps in the variance that is divided by."""
        return float(self.eps_share) / max(1, int(self.n))
