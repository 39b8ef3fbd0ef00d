"""TimeReach: how much a recurrent layer's last output still depends on each step of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic


@dataclass(frozen=True, slots=True, eq=False)
class TimeReach(Statistic):
    """Sums over samples of the squared gradient of the last output with respect to the inputs.

    Attributes:
        samples: [] samples.
        first: [] sum over the first quarter of the time steps.
        last: [] sum over the last quarter.
        steps: [] time steps of a sample.
    """

    name: ClassVar[str] = "time_reach"
    samples: Tensor
    first: Tensor
    last: Tensor
    steps: Tensor

    @classmethod
    def of(cls, gradient: Tensor) -> Self:
        """Reads a gradient.

        Args:
            gradient: [N, T, C] of one scalar of the last output, with respect to the inputs.
        """
        square = gradient.double().square().sum(2)  # what has faded has no square in float32
        square = torch.where(square.isfinite(), square, 0.0)
        quarter = max(1, gradient.shape[1] // 4)
        return cls(
            samples=torch.tensor(gradient.shape[0], device=gradient.device),
            first=square[:, :quarter].sum(),
            last=square[:, -quarter:].sum(),
            steps=torch.tensor(gradient.shape[1], device=gradient.device),
        )

    def merge(self, other: Self) -> Self:
        """Sums; of unlike lengths the longer one is kept."""
        self._check_kind(other)
        return type(self)(
            samples=self.samples + other.samples,
            first=self.first + other.first,
            last=self.last + other.last,
            steps=torch.maximum(self.steps, other.steps),
        )

    @property
    def ratio(self) -> float:
        """Root mean square gradient at the first quarter of the steps over that at the last; NaN of nothing."""
        return float((self.first / self.last).sqrt()) if float(self.last) > 0 else float("nan")
