"""What a measure is: needs, readings, rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from nndiag.findings import CoverageEntry, Reading
from nndiag.rules import Rule
from nndiag.snapshot import Snapshot


class Need(StrEnum):
    """Everything a measure may ask the observers for; the list is closed."""

    INPUT_TAILS = "tails of the inputs of activations"
    OUTPUT_MOMENTS = "moments of the outputs of weight layers"
    GRADIENT_MOMENTS = "mean square gradient at the outputs of weight layers"
    ATTENTION_ENTROPY = "entropy of attention rows"
    UNIT_SIGNATURES = "signatures of weight and gradient rows"
    WEIGHT_LAWS = "distribution of initial weights"


@dataclass(frozen=True, slots=True)
class Visit:
    """The snapshots a measure may compare: of this visit, and of the run's first one."""

    now: Snapshot
    first: Snapshot

    @property
    def is_first(self) -> bool:
        """Whether this is the first visit of the run."""
        return self.now is self.first


@dataclass(frozen=True)
class Measure:
    """A pure function from snapshots to readings, and the rules that judge them.

    ``read`` yields readings, and a coverage entry for every layer it cannot speak about.
    """

    name: str
    summary: str
    needs: frozenset[Need]
    read: Callable[[Visit], Iterable[Reading | CoverageEntry]]
    rules: tuple[Rule, ...]
