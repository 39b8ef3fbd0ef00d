"""What a measure is: needs, readings, rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

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
    NETWORK_INPUT = "moments of the network's floating-point input"
    NORM_INPUTS = "inputs of normalization layers"
    NORM_STATE = "running statistics and gains of normalization layers"
    BATCH_STATISTICS = "a replay that normalizes with the batch's own statistics"
    BATCH_MEANS = "means of the network's input over each batch, and counts of its labels"
    DROPOUT_INPUTS = "spectrum of the inputs of dropout layers"
    DROPOUT_MASKS = "outputs of replays that differ by their dropout masks only"
    PARAMETER_FLOW = "sizes of parameters, gradients and updates"
    TIME_REACH = "gradient of the last output of recurrent layers over the steps of their input"
    SHIFT_ORIGIN = "outputs of layers on their inputs of the step before"


@dataclass(frozen=True, slots=True)
class Visit:
    """The snapshots a measure may compare.

    Attributes:
        now: Of this visit.
        first: Of the run's first visit.
        previous: Of the visit before this one; None at the first.
        reference: The first one after the grace period with the same probe samples as now; None until then.
    """

    now: Snapshot
    first: Snapshot
    previous: Snapshot | None = None
    reference: Snapshot | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the first visit of the run."""
        return self.now is self.first


Worst = Literal["high", "low", "far from one"]


@dataclass(frozen=True)
class Measure:
    """A pure function from snapshots to readings, and the rules that judge them.

    ``read`` yields readings, and a coverage entry for every layer it cannot speak about. ``worst`` says which
    values of a reading are the bad ones; a reading it does not name is worst where it is high.
    """

    name: str
    summary: str
    needs: frozenset[Need]
    read: Callable[[Visit], Iterable[Reading | CoverageEntry]]
    rules: tuple[Rule, ...]
    worst: Mapping[str, Worst] = field(default_factory=dict)
