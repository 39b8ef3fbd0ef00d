"""Tails: how often each unit is in the flat part of its activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.sizes import is_on_host

_EXACT = 2**24
"""Counts below this are exact in float32."""

_BLOCK = 1 << 17


@dataclass(frozen=True, slots=True, eq=False)
class Tails(Statistic):
    """Counts of entries in the lower and upper tail.

    Attributes:
        n: [C] entries that are not NaN; an infinite one is in its tail.
        low: [C] entries at or below the lower edge.
        high: [C] entries at or above the upper edge.
        on: [C] samples with at least one entry outside the lower tail.
        samples: [] samples.
    """

    name: ClassVar[str] = "tails"
    n: Tensor
    low: Tensor
    high: Tensor
    on: Tensor
    samples: Tensor

    @classmethod
    def of(cls, x: Tensor, low: float | None, high: float | None) -> Self:
        """Two comparisons an entry.

        Args:
            x: [N, S, C] inputs of the activation.
            low: Lower edge; None: no lower tail.
            high: Upper edge; None: no upper tail.
        """
        count, positions, units = x.shape
        samples = torch.tensor(count, dtype=torch.int64, device=x.device)
        none = torch.zeros(units, dtype=torch.int64, device=x.device)
        if is_on_host(x) and 0 < count * positions < _EXACT and not bool(x.sum().isnan()):
            below, whole = (none, none) if low is None else _count(torch.le, x, low)
            return cls(
                n=torch.full_like(none, count * positions),
                low=below,
                high=none if high is None else _count(torch.ge, x, high)[0],
                on=count - whole,
                samples=samples,
            )
        known = ~x.isnan()
        n = known.sum((0, 1))
        lower = known & (x <= low) if low is not None else None
        on = (known & ~lower) if lower is not None else known
        return cls(
            n=n,
            low=none if lower is None else lower.sum((0, 1)),
            high=none if high is None else (x >= high).sum((0, 1)),
            on=(on.squeeze(1) if positions == 1 else on.any(1)).sum(0),
            samples=samples,
        )

    def merge(self, other: Self) -> Self:
        """Counts add."""
        self._check(other)
        mine, theirs = self.to_tensors(), other.to_tensors()
        return type(self)(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def k(self) -> int:
        """Samples."""
        return int(self.samples)

    @property
    def entries(self) -> int:
        """Entries of all units that are not NaN."""
        return max(1, int(self.n.sum()))

    @property
    def fraction_low(self) -> float:
        """Share of entries in the lower tail."""
        return int(self.low.sum()) / self.entries

    @property
    def fraction_high(self) -> float:
        """Share of entries in the upper tail."""
        return int(self.high.sum()) / self.entries

    @property
    def always_low(self) -> Tensor:
        """[C] units in the lower tail for every entry seen."""
        return (self.low == self.n) & (self.n > 0)

    @property
    def on_rates(self) -> tuple[float, ...]:
        """[C] share of samples in which each unit is on somewhere."""
        return tuple((self.on.double() / max(1, self.k)).tolist())


def _count(compare: Callable[..., Tensor], x: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """[C] entries beyond an edge, and [C] samples of which all are.

    As sums of float ones, since sums of bools take five times as long; a few samples at a time, in a buffer that
    stays in the cache.
    """
    _, positions, units = x.shape
    size = max(1, _BLOCK // max(1, positions * units))
    entries, samples = (torch.zeros(units, dtype=torch.int64) for _ in range(2))
    buffer = torch.empty_like(x[:size])
    for block in x.split(size):
        beyond = compare(block, edge, out=buffer[: len(block)])
        each = beyond.sum(1) if positions != 1 else beyond.squeeze(1)
        entries += each.sum(0).long()
        if positions != 1:
            samples += (each == positions).to(each.dtype).sum(0).long()
    return entries, samples if positions != 1 else entries
