"""Disagreement: how often replays that differ by their dropout masks predict different classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.sizes import is_on_host
from nndiag.statistics.view import wide


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
        x = torch.stack([_readable(output) for output in outputs])
        k, rows = x.shape[:2]
        chosen = x.argmax(-1)
        agreeing = (chosen.unsqueeze(0) == chosen.unsqueeze(1)).sum((0, 1)) - k
        average = x.mean(0)
        mean = average.double().sum(0) / max(1, rows)
        x -= average
        return cls(
            rows=torch.tensor(rows),
            mismatch=(1 - agreeing.double() / max(1, k * (k - 1))).sum(),
            spread=x.square().sum(dtype=wide(x)) / max(1, k - 1),
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


def _readable(output: Tensor) -> Tensor:
    """[rows, classes] in float32."""
    x = output.detach().float().flatten(0, -2)
    return x if is_on_host(x) and bool(x.sum().isfinite()) else x.nan_to_num(0.0, 0.0, 0.0)
