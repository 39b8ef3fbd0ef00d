"""AttentionEntropy: how many keys the rows of an attention matrix spread over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic

SATURATED = 0.05
"""A row whose normalized entropy is below this looks at one key only."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionEntropy(Statistic):
    """Sums over rows with at least two keys to choose from.

    Attributes:
        count: [H] rows.
        total: [H] sum of the normalized entropy H / ln n.
        sharp: [H] rows below ``SATURATED``.
    """

    name: ClassVar[str] = "attention_entropy"
    count: Tensor
    total: Tensor
    sharp: Tensor

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, allowed: Tensor | None = None) -> Self:
        """Entropy of softmax(q k^T) over the keys that each row may look at.

        Args:
            queries: [N, H, L, E], already scaled.
            keys: [N, H, S, E].
            allowed: True where a query may look at a key; broadcasts to [N, H, L, S]; None: everywhere.
        """
        scores = (queries.float() @ keys.float().transpose(-2, -1)).nan_to_num()
        # Differences of larger scores overflow, and 0 * inf is NaN.
        scores = scores.clamp(-1e20, 1e20)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        return cls.of_scores(scores)

    @classmethod
    def of_scores(cls, scores: Tensor) -> Self:
        """Entropy of softmax(scores) over keys that are not masked.

        Args:
            scores: [N, H, L, S]; minus infinity where a query may not look at a key.
        """
        scores = scores.float()
        valid = torch.isfinite(scores)
        keys_seen = valid.sum(-1)
        logs = torch.log_softmax(scores.masked_fill(~valid, -1e30), dim=-1)
        entropy = -(logs.exp() * logs.masked_fill(~valid, 0)).sum(-1)
        choice = keys_seen >= 2
        normalized = torch.where(choice, entropy / keys_seen.clamp(min=2).log(), 0)
        rest = (0, 2)
        return cls(
            choice.sum(rest),
            normalized.double().sum(rest),
            (choice & (normalized < SATURATED)).sum(rest),
        )

    def merge(self, other: Self) -> Self:
        """Sums add."""
        self._check(other)
        return type(self)(self.count + other.count, self.total + other.total, self.sharp + other.sharp)

    @property
    def rows(self) -> int:
        """Rows of all heads."""
        return int(self.count.sum())

    @property
    def mean(self) -> Tensor:
        """[H] mean normalized entropy."""
        return self.total / self.count.clamp(min=1)

    @property
    def saturated_share(self) -> float:
        """Share of rows that look at one key only."""
        return int(self.sharp.sum()) / max(1, self.rows)
