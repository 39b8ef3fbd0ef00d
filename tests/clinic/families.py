"""Families of faults, and the rules that speak for them."""

from __future__ import annotations

from collections.abc import Mapping

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "symmetry": ("ND301", "ND302", "ND303", "ND304"),
    "init_scale": ("ND311", "ND312"),
    "saturation": ("ND201", "ND203"),
    "dead_units": ("ND202",),
    "dropout_capacity": ("ND501", "ND504"),
    "dropout_bn_order": ("ND503",),
    "bn_drift": ("ND401", "ND402", "ND403", "ND406", "ND407"),
    "bn_small_batch": ("ND404",),
    "bn_noniid_batch": ("ND405",),
    "ln_heterogeneous": ("ND408",),
    "activation_shift": ("ND101", "ND102"),
    "vanishing_gradient": ("ND601", "ND311"),
    "exploding_gradient": ("ND602", "ND312"),
    "lr_too_high": ("ND101", "ND603"),
    "input_scale": ("ND701",),
    "numeric": ("ND604",),
    "not_trained": ("ND605", "ND606"),
}


def families_of(rule: str) -> frozenset[str]:
    """The families a rule speaks for; none for rules that state facts."""
    return frozenset(family for family, rules in FAMILIES.items() if rule in rules)
