"""The units of a layer, as a chart takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nndiag.findings import Finding, Reading
from nndiag.layers import LayerInfo
from nndiag.report.scales import GROUPS

MAX_WIDTH = 256
"""Units that are shown one by one; of more, as many order statistics."""

_MAX_GROUPED = 1024


class Units(NamedTuple):
    """Values of units.

    Attributes:
        form: "each" of them, "sorted" order statistics, or marks of "groups".
        total: How many units the layer has.
        values: float64.
    """

    form: str
    total: int
    values: np.ndarray[Any, Any]

    @classmethod
    def of(cls, reading: Reading) -> Units:
        """The units of a reading that has them."""
        units = np.asarray(reading.units, dtype=np.float64)
        total = len(units)
        if f"{reading.measure}/{reading.name}" in GROUPS:
            return cls("groups", total, units[:_MAX_GROUPED])
        if total > MAX_WIDTH:
            return cls(
                "sorted", total, np.sort(units)[np.linspace(0, total - 1, MAX_WIDTH).round().astype(int)]
            )
        return cls("each", total, units)


def readings_with_units(
    findings: Iterable[Finding], readings: Iterable[Reading], layers: Mapping[str, LayerInfo]
) -> list[Reading]:
    """Those of the layers that active findings name, as far as the measure of the finding saw them."""
    wanted = dict.fromkeys(
        (each.measure, layer)
        for top in findings
        for each in top.walk()
        if each.is_active
        for layer in each.layers
    )
    held: dict[tuple[str, str], list[Reading]] = {}
    for reading in readings:
        if reading.units and reading.layer is not None:
            info = layers.get(reading.layer)
            for place in {reading.layer, info.place if info else reading.layer}:
                held.setdefault((reading.measure, place), []).append(reading)
    return list({id(reading): reading for name in wanted for reading in held.get(name, ())}.values())
