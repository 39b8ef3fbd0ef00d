"""BatchMeans and BatchLabels: what each of the newest batches held on average, to see whether they are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.functional import Dispersion, Homogeneity, homogeneity, label_dispersion
from nndiag.statistics.base import Statistic
from nndiag.statistics.view import wide

BATCHES = 64
"""Batches that are remembered."""

_FEATURES = 128
_LABELS = 4096
_ENTRIES = 65536


@dataclass(frozen=True, slots=True, eq=False)
class BatchMeans(Statistic):
    """Mean and variance over the samples of each batch, for an even choice of features.

    Attributes:
        counts: [B] samples.
        means: [B, C].
        variances: [B, C] unbiased; zeros for a batch of one sample.
    """

    name: ClassVar[str] = "batch_means"
    counts: Tensor
    means: Tensor
    variances: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Reads one batch.

        Args:
            x: [N, ...] the network's input, one row a sample; NaN and infinite entries count as zero.
        """
        flat = x.detach().flatten(1) if x.dim() > 1 else x.detach().unsqueeze(1)
        stride = -(-flat.shape[1] // _FEATURES)
        rows = flat[:, ::stride].to(wide(flat)).nan_to_num(0.0, 0.0, 0.0)
        mean = rows.mean(0)
        variance = (rows - mean).square().sum(0) / max(1, len(rows) - 1)
        return cls(torch.tensor([len(rows)]), mean.unsqueeze(0), variance.unsqueeze(0))

    def merge(self, other: Self) -> Self:
        """The newest ``BATCHES`` of both; batches of samples of another shape begin anew."""
        self._check_kind(other)
        if self.means.shape[1] != other.means.shape[1]:
            return other
        mine, theirs = self.to_tensors(), other.to_tensors()
        return type(self)(**{name: torch.cat([mine[name], theirs[name]])[-BATCHES:] for name in mine})

    @property
    def batches(self) -> int:
        """B."""
        return len(self.counts)

    @property
    def homogeneity(self) -> Homogeneity | None:
        """The analysis of variance; None where there is too little."""
        return homogeneity(self.counts.numpy(), self.means.numpy(), self.variances.numpy())


@dataclass(frozen=True, slots=True, eq=False)
class BatchLabels(Statistic):
    """How often each of the newest batches holds each label.

    Attributes:
        table: [B, K] counts.
    """

    name: ClassVar[str] = "batch_labels"
    table: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> Self | None:
        """Counts the labels of one batch; None where they are no class labels.

        Args:
            labels: [N] integers; negative ones mean "ignore".
        """
        if not isinstance(labels, Tensor) or labels.layout != torch.strided or labels.dim() != 1:
            return None
        if labels.is_floating_point() or labels.is_complex() or not 0 < labels.numel() <= _ENTRIES:
            return None
        kept = labels.detach().long().cpu()
        kept = kept[kept >= 0]
        if not len(kept) or int(kept.max()) >= _LABELS:
            return None
        return cls(torch.bincount(kept).unsqueeze(0))

    def merge(self, other: Self) -> Self:
        """The newest ``BATCHES`` of both; labels not seen so far get a column."""
        self._check_kind(other)
        width = max(self.table.shape[1], other.table.shape[1])
        wide = [torch.nn.functional.pad(t.table, (0, width - t.table.shape[1])) for t in (self, other)]
        return type(self)(torch.cat(wide)[-BATCHES:])

    @property
    def batches(self) -> int:
        """B."""
        return len(self.table)

    @property
    def dispersion(self) -> Dispersion | None:
        """The test of homogeneity; None where there is too little."""
        return label_dispersion(self.table.numpy())
