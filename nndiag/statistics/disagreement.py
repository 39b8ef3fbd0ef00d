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
        variance: [] sum over entries of the squared deviation, over rows, of the mean over masks.
        masks: [] masks.
    """

    name: ClassVar[str] = "disagreement"
    rows: Tensor
    mismatch: Tensor
    spread: Tensor
    variance: Tensor
    masks: Tensor

    @classmethod
    def of(cls, outputs: Sequence[Tensor]) -> Self:
        """Compares the outputs of K replays.

        Args:
            outputs: K tensors [..., classes].
        """
        x = torch.stack([output.detach().float().flatten(0, -2) for output in outputs])
        k, rows, classes = x.shape
        votes = torch.zeros(rows, classes, device=x.device)
        chosen = x.argmax(-1)
        for mask in range(k):
            votes.scatter_add_(1, chosen[mask].unsqueeze(1), torch.ones(rows, 1, device=x.device))
        agreeing = (votes * (votes - 1)).sum(1) / max(1, k * (k - 1))
        mean = x.mean(0)
        return cls(
            rows=torch.tensor(rows),
            mismatch=(1 - agreeing).double().sum(),
            spread=(x - mean).square().double().sum() / max(1, k - 1),
            variance=(mean - mean.mean(0)).square().double().sum(),
            masks=torch.tensor(k),
        )

    def merge(self, other: Self) -> Self:
        """Sums add; replays of other rows, with as many masks."""
        self._check(other)
        return type(self)(
            self.rows + other.rows,
            self.mismatch + other.mismatch,
            self.spread + other.spread,
            self.variance + other.variance,
            self.masks,
        )

    @property
    def rate(self) -> float:
        """Mean share of pairs of masks that predict different classes."""
        return float(self.mismatch) / max(1, int(self.rows))
