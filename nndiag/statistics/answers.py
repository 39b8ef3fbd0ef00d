"""Answers: what a network said in a training step and, of a squared error, what it should have said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.sample import strided_sample
from nndiag.statistics.view import wide

_SAMPLE = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Answers(Statistic):
    """Sums over an even choice of the entries of a network's output.

    The gradient of a mean squared error at one of n outputs is 2 (output - target) / n: it tells the targets, which
    no layer ever sees. It has no name among statistics: a snapshot holds what follows from it, as facts.

    Attributes:
        calls: [] outputs.
        count: [] entries chosen.
        error: [] sum of (n / 2 gradient)^2, that of (output - target)^2 if the loss is a mean squared error.
        mean: [] of the targets.
        m2: [] squared deviations of the targets from their mean.
        low: [] the smallest target.
        high: [] the largest target.
    """

    calls: Tensor
    count: Tensor
    error: Tensor
    mean: Tensor
    m2: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, output: Tensor, gradient: Tensor) -> Self:
        """Reads one output.

        Args:
            output: Of any shape.
            gradient: Of the loss, at the output.
        """
        said, slope = (strided_sample(t.detach(), _SAMPLE) for t in (output, gradient))
        apart = slope.to(wide(slope)) * (gradient.numel() / 2)
        targets = said.to(apart.dtype) - apart
        mean = targets.mean()
        sums = (apart.square().sum(), mean, (targets - mean).square().sum(), targets.min(), targets.max())
        return cls(torch.tensor(1), torch.tensor(targets.numel()), *sums)

    def merge(self, other: Self) -> Self:
        """Sums add, squared deviations by the rule of Chan et al."""
        self._check(other)
        count, delta = self.count + other.count, other.mean - self.mean
        return type(self)(
            calls=self.calls + other.calls,
            count=count,
            error=self.error + other.error,
            mean=self.mean + delta * other.count / count,
            m2=self.m2 + other.m2 + delta.square() * self.count * other.count / count,
            low=torch.minimum(self.low, other.low),
            high=torch.maximum(self.high, other.high),
        )

    def agrees(self, loss: float) -> bool:
        """Whether a loss is the mean squared error of the one output that was seen."""
        error = float(self.error) / max(1, int(self.count))
        return int(self.calls) == 1 and abs(error - loss) <= 0.05 * abs(loss)

    @property
    def mean_square(self) -> float:
        """Of the targets: the mean squared error of the answer 0."""
        return float(self.m2) / max(1, int(self.count)) + float(self.mean) ** 2
