"""What an observer hands over at a visit."""

from __future__ import annotations

from dataclasses import dataclass, field

from nndiag.errors import IncompatibleStatisticsError
from nndiag.snapshot import Gap, Key
from nndiag.statistics import Statistic


@dataclass
class Observation:
    """Statistics by key, gaps with their reasons, and notes for the report's coverage."""

    statistics: dict[Key, Statistic] = field(default_factory=dict)
    gaps: dict[Gap, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, key: Key, statistic: Statistic) -> None:
        """Merges a statistic with what is there already."""
        known = self.statistics.get(key)
        try:
            self.statistics[key] = statistic if known is None else known.merge(statistic)
        except IncompatibleStatisticsError:
            self.gaps[Gap(key.layer, key.tap, key.observer)] = "called with different numbers of units"

    def absorb(self, other: Observation) -> None:
        """Takes over what another observer saw."""
        self.statistics |= other.statistics
        self.gaps |= other.gaps
        self.notes += other.notes
