"""How a reading is to be looked at: which side is bad, where it ends, where a rule draws its line."""

from __future__ import annotations

from typing import Any

from nndiag.measures import MEASURES, RULES

SHARES = frozenset(
    {
        *("saturation/lower_tail", "saturation/upper_tail", "saturation/saturated", "saturation/dead_share"),
        *("saturation/attention_entropy", "saturation/attention_saturated_rows"),
        *("neuron_symmetry/distinct_share", "neuron_symmetry/symmetry_index", "neuron_symmetry/max_cosine"),
        *("neuron_symmetry/locked_share", "neuron_symmetry/stuck_share", "neuron_symmetry/healing_share"),
        *("neuron_symmetry/effective_width", "initialization/variance_share"),
        *("gradient_flow/silent_share", "gradient_flow/resting_share"),
        *("norm_drift/constant_share", "norm_drift/eps_share"),
        *("dropout_capacity/drop_probability", "dropout_capacity/active_in_eval"),
        *("dropout_capacity/idle_in_training", "dropout_capacity/disagreement"),
    }
)
"""Readings that lie between 0 and 1 whatever the network."""

LIMITS = {
    "activation_shift/step_shift": ("ND101",),
    "activation_shift/interval_shift": ("ND102",),
    "saturation/saturated": ("ND201",),
    "saturation/dead_share": ("ND202",),
    "neuron_symmetry/max_cosine": ("ND303",),
    "initialization/gradient_gain": ("ND311", "ND312"),
    "norm_drift/running_distance": ("ND401",),
    "norm_drift/batch_z2": ("ND402",),
    "norm_drift/constant_share": ("ND406",),
    "norm_drift/signal_gain": ("ND408",),
    "norm_drift/effective_rate": ("ND409",),
    "gradient_flow/saliency_ratio": ("ND601",),
}
"""Rules that hold the reading itself against their threshold; the others judge something derived from it."""

JUDGED = LIMITS.keys() | {
    *("neuron_symmetry/distinct_share", "neuron_symmetry/effective_width", "neuron_symmetry/locked_share"),
    *("neuron_symmetry/stuck_share", "gradient_flow/silent_share", "gradient_flow/resting_share"),
    *("norm_drift/eps_share", "dropout_capacity/active_in_eval", "dropout_capacity/idle_in_training"),
}
"""Readings with a bad side of their own: the others are only larger or smaller."""

GROUPS = frozenset({"neuron_symmetry/effective_width"})
"""Readings whose units are marks of groups: equal marks, equal units."""


def scale_of(measure: str, name: str) -> dict[str, Any]:
    """Plain facts for a chart; a measure that is not known here is worst where it is high."""
    known, reading = MEASURES.get(measure), f"{measure}/{name}"
    return {
        "about": known.summary if known else "",
        "worst": known.worst.get(name, "high") if known else "high",
        "judged": reading in JUDGED,
        "range": [0, 1] if reading in SHARES else None,
        "rules": [rule.id for rule in RULES.values() if (rule.measure, rule.reads) == (measure, name)],
        "limits": {rule: RULES[rule].threshold for rule in LIMITS.get(reading, ())},
    }
