"""Histogram: signed logarithmic counts, for display only; no verdict reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.sample import strided_sample

_SAMPLE = 4096
_PER_OCTAVE = 4
_OCTAVES = 20
_SIDE = 2 * _OCTAVES * _PER_OCTAVE


@dataclass(frozen=True, slots=True, eq=False)
class Histogram(Statistic):
    """Counts in bins of a quarter octave from 2^-20 to 2^20 on either side of zero.

    Attributes:
        counts: [321] from the most negative bin over the one around zero to the most positive.
        total: [] sum of the sampled entries.
        squares: [] sum of their squares.
        minimum: [] smallest finite one; inf when there is none.
        maximum: [] largest finite one; -inf when there is none.
    """

    name: ClassVar[str] = "histogram"
    counts: Tensor
    total: Tensor
    squares: Tensor
    minimum: Tensor
    maximum: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Counts up to 4,096 evenly spread entries; non-finite ones are left out.

        Args:
            x: [N, S, C].
        """
        sample = strided_sample(x, _SAMPLE)
        finite = sample.isfinite()
        sample = torch.where(finite, sample, 0).double()
        size = sample.abs()
        octave = torch.log2(size.clamp(min=2.0**-_OCTAVES)) + _OCTAVES
        place = (octave * _PER_OCTAVE).floor().clamp(0, _SIDE - 1).long() + 1
        place = torch.where(size < 2.0**-_OCTAVES, 0, place)
        index = _SIDE + torch.where(sample < 0, -place, place)
        counts = torch.zeros(2 * _SIDE + 1, dtype=torch.int64, device=x.device)
        counts = counts.scatter_add(0, index, finite.long())
        above, below = sample.new_full((1,), torch.inf), sample.new_full((1,), -torch.inf)
        minimum = torch.cat([torch.where(finite, sample, torch.inf), above]).min()
        maximum = torch.cat([torch.where(finite, sample, -torch.inf), below]).max()
        return cls(counts, sample.sum(), sample.square().sum(), minimum, maximum)

    def merge(self, other: Self) -> Self:
        """Counts and sums add."""
        self._check(other)
        return type(self)(
            self.counts + other.counts,
            self.total + other.total,
            self.squares + other.squares,
            torch.minimum(self.minimum, other.minimum),
            torch.maximum(self.maximum, other.maximum),
        )

    @staticmethod
    def edges() -> list[float]:
        """[322] bin edges, ascending."""
        positive = [2.0 ** (i / _PER_OCTAVE - _OCTAVES) for i in range(_SIDE + 1)]
        return [-edge for edge in reversed(positive)] + positive
