"""One file, one measure. The registries below are the only lists of them."""

from __future__ import annotations

from collections.abc import Mapping

from nndiag.measures import (
    activation_shift,
    coverage,
    data,
    dropout_capacity,
    gradient_flow,
    initialization,
    neuron_symmetry,
    norm_drift,
    saturation,
    shift_origin,
)
from nndiag.measures.base import Measure, Need, Visit
from nndiag.rules import Rule

MEASURES: Mapping[str, Measure] = {
    module.MEASURE.name: module.MEASURE
    for module in (
        data,
        activation_shift,
        saturation,
        neuron_symmetry,
        initialization,
        norm_drift,
        dropout_capacity,
        gradient_flow,
        coverage,
    )
}
ON_DEMAND: Mapping[str, Measure] = {shift_origin.MEASURE.name: shift_origin.MEASURE}
"""Measures that are taken only when named: they explain more than they judge, and cost more."""

RULES: Mapping[str, Rule] = {
    rule.id: rule for rule in sorted((r for m in MEASURES.values() for r in m.rules), key=lambda r: r.id)
}

__all__ = ["MEASURES", "ON_DEMAND", "RULES", "Measure", "Need", "Visit"]
