"""Disagreement: how often replays that differ by their dropout masks predict different classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic


@dataclass(frozen=True, slots=True, eq=False)
class Disagreement(Statistic):
    """Sums over the rows of the network's output.

    Attributes:
        rows: [] rows.
        mismatch: [] sum over rows of the share of pairs of masks with different largest outputs.
        spread: [] sum over entries of the variance over masks.
        mean: [classes] mean over rows and masks.
        m2: [classes] sum over rows of the squared deviation of the mean over masks.
        masks: [] masks.
    """

    name: ClassVar[str] = "disagreement"
    rows: Tensor
    mismatch: Tensor
    spread: Tensor
    mean: Tensor
    m2: Tensor
    masks: Tensor

    @classmethod
    def of(cls, outputs: Sequence[Tensor]) -> Self:
        """Compares the outputs of K replays.

        Args:
            outputs: K tensors [..., classes]; NaN and infinite entries count as zero.
        """
        x = torch.stack([output.detach().float().flatten(0, -2) for output in outputs])
        x = x.nan_to_num(0.0, 0.0, 0.0)
        k, rows, classes = x.shape
        votes = torch.zeros(rows, classes, device=x.device)
        chosen = x.argmax(-1)
        for mask in range(k):
            votes.scatter_add_(1, chosen[mask].unsqueeze(1), torch.ones(rows, 1, device=x.device))
        agreeing = (votes * (votes - 1)).sum(1) / max(1, k * (k - 1))
        average = x.mean(0)
        mean = average.double().sum(0) / max(1, rows)
        return cls(
            rows=torch.tensor(rows),
            mismatch=(1 - agreeing).double().sum(),
            spread=(x - average).square().double().sum() / max(1, k - 1),
            mean=mean,
            m2=(average.double() - mean).square().sum(0),
            masks=torch.tensor(k),
        )

    def merge(self, other: Self) -> Self:
        """Sums add, squared deviations by the rule of Chan et al.; replays of other rows, with as many masks."""
        self._check(other)
        rows = self.rows + other.rows
        total, delta = rows.clamp(min=1), other.mean - self.mean
        return type(self)(
            rows=rows,
            mismatch=self.mismatch + other.mismatch,
            spread=self.spread + other.spread,
            mean=self.mean + delta * other.rows / total,
            m2=self.m2 + other.m2 + delta.square() * self.rows * other.rows / total,
            masks=self.masks,
        )

    @property
    def variance(self) -> Tensor:
        """[] sum over entries of the squared deviation, over rows, of the mean over masks."""
        return self.m2.sum()

    @property
    def rate(self) -> float:
        """Mean share of pairs of masks that predict different classes."""
        return float(self.mismatch) / max(1, int(self.rows))
