"""One file, one measure. The registry below is the only list of them."""

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
RULES: Mapping[str, Rule] = {
    rule.id: rule for rule in sorted((r for m in MEASURES.values() for r in m.rules), key=lambda r: r.id)
}

__all__ = ["MEASURES", "RULES", "Measure", "Need", "Visit"]
