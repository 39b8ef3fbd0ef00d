"""One reading of all layers over the steps, and what a chart wants to know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

COLUMNS = 512
"""Columns that a heat map can show."""


@dataclass(frozen=True)
class Row:
    """``values[layer, step]``, NaN where there is none."""

    steps: Array
    values: Array

    def newest(self) -> tuple[list[float | str | None], list[int | None]]:
        """The newest value of each layer, and its step."""
        count = self.values.shape[1]
        if not count:
            return [], []
        seen = ~np.isnan(self.values)
        last = np.where(seen.any(axis=1), count - 1 - np.argmax(seen[:, ::-1], axis=1), -1)
        values = np.where(last >= 0, self.values[np.arange(len(last)), last], np.nan)
        return plain_numbers(values), [int(self.steps[place]) if place >= 0 else None for place in last]

    def extent(self) -> dict[str, float | None]:
        """Where nearly all values lie, and where all do."""
        finite = self.values[np.isfinite(self.values)].astype(np.float64)
        if not finite.size:
            return {"low": None, "high": None, "smallest": None, "largest": None}
        low, high = np.quantile(finite, [0.02, 0.98]).tolist()
        return {"low": low, "high": high, "smallest": float(finite.min()), "largest": float(finite.max())}

    def binned(self, columns: int = COLUMNS) -> Row:
        """At most so many columns, equally wide in steps: TensorBoard keeps a random part of the visits.

        A column shows its newest visit; one without any is left out, as the visit before it still holds.
        """
        if len(self.steps) <= columns:
            return self
        edges = np.linspace(self.steps[0], self.steps[-1], columns + 1)[1:]
        bins = np.minimum(np.searchsorted(edges, self.steps), columns - 1)
        newest = np.flatnonzero(np.append(bins[1:] != bins[:-1], True))
        return Row(self.steps[newest], self.values[:, newest])


def plain_numbers(values: Array) -> list[float | str | None]:
    """Six digits are enough for a chart; JSON knows neither NaN nor infinity."""
    return [_plain(value) for value in values.tolist()]


def _plain(value: float) -> float | str | None:
    if math.isfinite(value):
        return float(f"{value:.6g}")
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"
