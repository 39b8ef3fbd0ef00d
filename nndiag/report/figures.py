"""What the page draws of a report, in the shape in which TensorBoard serves it.

A report alone has the newest readings. With the visits of its run every reading has its series.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from nndiag.findings import Coverage, Reading, Scalar, plain
from nndiag.layers import LayerInfo
from nndiag.page.series import COLUMNS, Row, plain_numbers
from nndiag.report.report import Report
from nndiag.report.scales import scale_of
from nndiag.report.units import Units, readings_with_units

CELLS = 1_000_000
"""Numbers that all heat maps of a page may hold together: some five megabytes."""

_FEWEST_COLUMNS = 32
_CURVE = 400
_MAX_UNITS = 16
_SNAPSHOTS = 24
_FIELDS = ("name", "kind", "role", "depth", "units", "activation", "source", "is_output")


class Visited(Protocol):
    """What a visit of a recorded run has to say."""

    @property
    def layers(self) -> Mapping[str, LayerInfo]:
        """The layers of that time, in order of execution."""

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What was read."""


def figures(report: Report, visits: Sequence[Visited] = (), name: str = "") -> dict[str, Any]:
    """The data of the page, as plain types without NaN.

    Args:
        report: What to show.
        visits: Of its run, in order of steps.
        name: Of the run.
    """
    readings = [reading for visit in visits for reading in visit.readings] or list(report.readings)
    infos = {layer: info for visit in visits for layer, info in visit.layers.items()}
    names = _names(report, readings, infos)
    rows = dict(_rows(readings, {layer: place for place, layer in enumerate(names)}))
    columns = _columns(rows.values())
    numbers, units = list(_numbers(readings)), _units(report, readings, infos)
    return {
        "run": {
            "name": name,
            "is_series": len(visits) > 1,
            "step": _last_step(report, readings),
            "visits": len(visits) or _whole(report.run.get("visits")),
            "is_complete": report.run.get("is_complete") is not False,
            "facts": plain(
                {row.name: row.value for row in report.readings if row.layer is None} | dict(report.run)
            ),
            "layers": [layer_row(layer, infos.get(layer)) for layer in names],
            "findings": [finding.to_dict() for finding in report.findings],
            "coverage": coverage_groups(report.coverage),
            "notes": list(report.coverage.notes),
            "readings": [_glance(tag, row) for tag, row in rows.items()],
            "numbers": [{key: row[key] for key in ("tag", "measure", "reading")} for row in numbers],
            "units": [{key: row[key] for key in ("tag", "measure", "reading", "layer")} for row in units],
        },
        "rows": {tag: _packed(row, columns) for tag, row in rows.items()},
        "numbers": numbers,
        "units": units,
    }


def layer_row(name: str, info: LayerInfo | None) -> dict[str, Any]:
    """What the page knows of a layer."""
    return {field: getattr(info, field) for field in _FIELDS} if info else {"name": name}


def coverage_groups(coverage: Coverage) -> list[dict[str, Any]]:
    """Layers by measure, status and reason; the run as a whole is None."""
    groups: dict[tuple[str, str, str], list[str | None]] = {}
    for entry in coverage:
        groups.setdefault((entry.measure, entry.status, entry.reason), []).append(entry.layer)
    return [
        {"measure": measure, "status": status, "reason": reason, "layers": layers}
        for (measure, status, reason), layers in groups.items()
    ]


def _names(report: Report, readings: Iterable[Reading], infos: Iterable[str]) -> list[str]:
    """Every layer that anything is said about."""
    read = (reading.layer for reading in readings if reading.layer is not None)
    found = (layer for top in report.findings for finding in top.walk() for layer in finding.layers)
    return list(dict.fromkeys((*infos, *read, *report.layers, *found)))


def _last_step(report: Report, readings: Iterable[Reading]) -> int | None:
    last = _whole(report.run.get("last_step"))
    return max((reading.step for reading in readings), default=None) if last is None else last


def _whole(fact: Scalar) -> int | None:
    return fact if isinstance(fact, int) and fact >= 0 else None


def _rows(readings: Iterable[Reading], places: Mapping[str, int]) -> Iterator[tuple[str, Row]]:
    """One row a reading, by ``<measure>/<reading>``."""
    found: dict[tuple[str, str], list[Reading]] = {}
    for reading in readings:
        if reading.layer is not None:
            found.setdefault((reading.measure, reading.name), []).append(reading)
    for (measure, name), own in sorted(found.items()):
        steps = sorted({reading.step for reading in own})
        columns = {step: column for column, step in enumerate(steps)}
        values = np.full((len(places), len(steps)), np.nan, dtype="<f4")
        with np.errstate(over="ignore"):
            for reading in own:
                values[places[str(reading.layer)], columns[reading.step]] = reading.value
        yield f"{measure}/{name}", Row(np.array(steps, dtype=np.int64), values)


def _columns(rows: Iterable[Row]) -> int:
    """How many columns a heat map can have, so that all of them stay below ``CELLS``."""
    lines = sum(len(_seen(row)) for row in rows)
    return min(COLUMNS, max(_FEWEST_COLUMNS, CELLS // max(1, lines)))


def _seen(row: Row) -> list[int]:
    """Places of the layers that have a value."""
    places: list[int] = np.flatnonzero(~np.isnan(row.values).all(axis=1)).tolist()
    return places


def _glance(tag: str, row: Row) -> dict[str, Any]:
    values, steps = row.newest()
    return {"tag": tag, "values": values, "steps": steps} | _facts(tag) | row.extent()


def _facts(tag: str) -> dict[str, Any]:
    measure, _, name = tag.partition("/")
    return {"measure": measure, "reading": name} | scale_of(measure, name)


def _packed(row: Row, columns: int) -> dict[str, Any]:
    """Only the layers that have a value, float32 as base64."""
    shown, layers = row.binned(columns), _seen(row)
    values = np.ascontiguousarray(shown.values[layers], "<f4").tobytes()
    return {
        "layers": layers,
        "steps": shown.steps.tolist(),
        "samples": len(row.steps),
        "values": base64.b64encode(values).decode(),
    }


def _numbers(readings: Iterable[Reading]) -> Iterator[dict[str, Any]]:
    """Every number of the run over the steps."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for reading in readings:
        if reading.layer is None:
            found.setdefault((reading.measure, reading.name), {})[reading.step] = reading.value
    for (measure, name), series in sorted(found.items()):
        steps, values = np.array(sorted(series)), np.array([[series[step] for step in sorted(series)]])
        shown = Row(steps, values).binned(_CURVE)
        yield {
            "tag": f"{measure}/{name}",
            "measure": measure,
            "reading": name,
            "steps": shown.steps.tolist(),
            "values": plain_numbers(shown.values[0]),
        }


def _units(
    report: Report, readings: Iterable[Reading], infos: Mapping[str, LayerInfo]
) -> list[dict[str, Any]]:
    """Units of the layers that active findings name, at visits spread over the run, the newest among them."""
    found: dict[tuple[str, str, str], list[Reading]] = {}
    for reading in readings_with_units(report.findings, readings, infos):
        found.setdefault((reading.measure, reading.name, str(reading.layer)), []).append(reading)
    rows = []
    for (measure, name, layer), own in list(found.items())[:_MAX_UNITS]:
        own.sort(key=lambda reading: reading.step)
        kept = {round(place) for place in np.linspace(len(own) - 1, 0, _SNAPSHOTS)}
        newest = Units.of(own[-1])
        rows.append(
            {"tag": f"{measure}/{name}/{layer}", "measure": measure, "reading": name, "layer": layer}
            | {"form": newest.form, "total": newest.total}
            | {
                "snapshots": [
                    {"step": own[place].step, "values": plain_numbers(Units.of(own[place]).values)}
                    for place in sorted(kept)
                ]
            }
        )
    return rows
