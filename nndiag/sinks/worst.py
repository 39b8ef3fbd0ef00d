"""The worst layer of each reading: one number for a chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from nndiag.findings import Reading


def _ratio(value: float) -> float:
    """How far a ratio is from 1, up or down."""
    return abs(math.log(value)) if value > 0 else math.inf


_BADNESS: Mapping[str, Callable[[float], float]] = {
    **dict.fromkeys(
        (
            *("initialization/signal_share", "initialization/variance_share"),
            *("initialization/mean_square_gradient", "neuron_symmetry/distinct_share"),
            *("neuron_symmetry/effective_width", "saturation/attention_entropy", "saturation/transmission"),
        ),
        lambda value: -value,
    ),
    **dict.fromkeys(
        ("initialization/gradient_gain", "initialization/gradient_ratio", "initialization/weight_gain"),
        _ratio,
    ),
}
"""Readings whose smallest value is the worst, and ratios that are best at 1; of all others the largest is."""

_FACTS = ("run", "coverage")
"""Pseudo-measures about the run and about nndiag: numbers without a good or bad side."""


def worst_readings(readings: Iterable[Reading]) -> dict[str, float]:
    """The worst finite value over layers by ``<measure>/<reading>``, in order of appearance."""
    found: dict[str, float] = {}
    for reading in readings:
        name = f"{reading.measure}/{reading.name}"
        badness = _BADNESS.get(name, float)
        if reading.measure in _FACTS or not math.isfinite(reading.value):
            continue
        if name not in found or badness(reading.value) > badness(found[name]):
            found[name] = reading.value
    return found
