"""The worst layer of each reading: one number for a chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from nndiag.findings import Reading
from nndiag.measures import MEASURES
from nndiag.measures.base import Worst


def _ratio(value: float) -> float:
    """How far a ratio is from 1, up or down."""
    return abs(math.log(value)) if value > 0 else math.inf


_BADNESS: Mapping[Worst, Callable[[float], float]] = {
    "high": float,
    "low": lambda value: -value,
    "far from one": _ratio,
}

_FACTS = ("run", "coverage")
"""Pseudo-measures about the run and about nndiag: numbers without a good or bad side."""


def worst_readings(readings: Iterable[Reading]) -> dict[str, float]:
    """The worst finite value over layers by ``<measure>/<reading>``, in order of appearance."""
    found: dict[str, float] = {}
    for reading in readings:
        if reading.measure in _FACTS or not math.isfinite(reading.value):
            continue
        name, badness = f"{reading.measure}/{reading.name}", _BADNESS[_side(reading)]
        if name not in found or badness(reading.value) > badness(found[name]):
            found[name] = reading.value
    return found


def _side(reading: Reading) -> Worst:
    """The bad side as its measure says; a recorded run may hold measures that are not known here."""
    measure = MEASURES.get(reading.measure)
    return measure.worst.get(reading.name, "high") if measure else "high"
