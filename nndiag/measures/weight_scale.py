"""How far weights began from the scale that keeps signals: the first fan_in Var(W) over its critical value."""

from __future__ import annotations

from collections.abc import Iterator

from nndiag.findings import Reading
from nndiag.rules import View

OFF = 10.0
"""Times that it may be off before weights count as drawn for something else."""


def over_critical(reading: Reading) -> float:
    """fan_in Var(W) over its critical value, of a ``weight_gain`` reading."""
    return reading.value / float(reading.detail["critical_gain"] or 1)


def first_of(view: View) -> float | None:
    """Of the view's layer; None where it was not read."""
    gain = view.series("weight_gain", "initialization")
    return None if gain is None else over_critical(gain.first)


def first_of_all(view: View) -> Iterator[tuple[str, Reading]]:
    """The first reading of each layer."""
    for layer, series in view.across("weight_gain", "initialization"):
        yield layer, series.first
