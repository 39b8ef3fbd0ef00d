"""What the dashboard of TensorBoard draws, as tensors of nndiag's own in the event of a visit.

One row a reading, with all layers in it: hundreds of scalars would load a hundred times slower. Texts
(findings, layers, coverage) are complete each time, so that thinning on the way can lose none of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nndiag.diagnosis import Update
from nndiag.events import (
    COVERAGE_TAG,
    FINDINGS_TAG,
    LAYERS_TAG,
    PLUGIN_NAME,
    ROW_PREFIX,
    RUN_PREFIX,
    SCHEMA_VERSION,
    UNITS_PREFIX,
)
from nndiag.findings import Coverage, Finding, Reading, plain
from nndiag.layers import LayerInfo
from nndiag.report import Report
from nndiag.report.figures import coverage_groups, layer_row
from nndiag.report.scales import scale_of
from nndiag.report.units import Units, readings_with_units

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

MAX_UNITS = 8
"""Layers a visit whose units are written: those that active findings name."""

_MAX_TAG = 200


class TabData:
    """Turns updates into values of an event. It remembers what the event file at hand has been told."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._infos: dict[str, LayerInfo] = {}
        self._file: object = None
        self._told: set[str] = set()
        self._texts: dict[str, str] = {}
        self._visits = 0
        self._step = -1

    def values(self, update: Update, file: object) -> Iterator[Summary.Value]:
        """All that one visit brought.

        Args:
            update: Of the visit.
            file: The writer of the event file. Each file describes its tags anew, because each is read alone.
        """
        self._begin(file)
        self._visits += 1
        self._step = update.step
        self._meet(update)
        yield from self._if_new(LAYERS_TAG, {"layers": list(self._rows_of_layers())})
        yield from self._numbers(update.readings)
        yield self._findings(update.findings)
        yield from self._if_new(COVERAGE_TAG, self._coverage(update.coverage))
        yield from self._units(update)

    def ending(self, report: Report, file: object) -> Iterator[Summary.Value]:
        """The end of the run."""
        self._begin(file)
        yield from self._if_new(LAYERS_TAG, {"layers": list(self._rows_of_layers())})
        yield self._findings(report.findings, {"run": plain(dict(report.run)), "is_complete": True})
        yield from self._if_new(COVERAGE_TAG, self._coverage(report.coverage))

    def _begin(self, file: object) -> None:
        if file is not self._file:
            self._file, self._told, self._texts = file, set(), {}

    def _meet(self, update: Update) -> None:
        """Gives new layers the next places."""
        self._infos |= update.layers
        read = (reading.layer for reading in update.readings if reading.layer is not None)
        for name in (*update.layers, *read):
            self._places.setdefault(name, len(self._places))

    def _rows_of_layers(self) -> Iterator[dict[str, Any]]:
        return (layer_row(name, self._infos.get(name)) for name in self._places)

    def _numbers(self, readings: Iterable[Reading]) -> Iterator[Summary.Value]:
        """A row of all layers for each reading; a number for those of the run."""
        rows: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        numbers: dict[tuple[str, str], float] = {}
        for reading in readings:
            key = (reading.measure, reading.name)
            if reading.layer is None:
                numbers[key] = reading.value
            else:
                row = rows.setdefault(key, np.full(len(self._places), np.nan))
                row[self._places[reading.layer]] = reading.value
        for kind, prefix, found in (("row", ROW_PREFIX, rows), ("run", RUN_PREFIX, numbers)):
            for (measure, name), value in found.items():
                facts: dict[str, Any] = {"kind": kind, "measure": measure, "reading": name}
                facts |= scale_of(measure, name)
                yield self._floats(f"{prefix}/{measure}/{name}", facts, np.atleast_1d(value))

    def _findings(self, findings: Sequence[Finding], more: Mapping[str, Any] | None = None) -> Summary.Value:
        rows = [self._with_places(finding.to_dict()) for finding in findings]
        record = {"step": self._step, "visits": self._visits, "findings": rows} | dict(more or {})
        return self._text(FINDINGS_TAG, _json(record))

    def _with_places(self, row: dict[str, Any]) -> dict[str, Any]:
        """Layers by their places: a finding can name hundreds, at each visit."""
        row["layers"] = [self._places.get(name, name) for name in row["layers"]]
        row["related"] = [self._with_places(symptom) for symptom in row["related"]]
        return row

    def _coverage(self, coverage: Coverage) -> dict[str, Any]:
        """Layers by measure, status and reason."""
        rows = coverage_groups(coverage)
        for row in rows:
            row["layers"] = [self._places.get(name, name) for name in row["layers"]]
        return {"groups": rows, "notes": list(coverage.notes)}

    def _units(self, update: Update) -> Iterator[Summary.Value]:
        """Units of the layers that active findings name, as far as the measure of the finding saw them."""
        found = readings_with_units(update.findings, update.readings, update.layers)
        for reading in found[:MAX_UNITS]:
            yield self._unit_values(reading)

    def _unit_values(self, reading: Reading) -> Summary.Value:
        units, name = Units.of(reading), f"{reading.measure}/{reading.name}"
        facts: dict[str, Any] = {"kind": "units", "measure": reading.measure, "reading": reading.name}
        facts |= {"layer": reading.layer, "form": units.form, "total": units.total}
        return self._floats(f"{UNITS_PREFIX}/{name}/{reading.layer}", facts, units.values)

    def _if_new(self, tag: str, record: Mapping[str, Any]) -> Iterator[Summary.Value]:
        text = _json(record)
        if self._texts.get(tag) != text:
            self._texts[tag] = text
            yield self._text(tag, text)

    def _text(self, tag: str, text: str) -> Summary.Value:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=[text.encode()])
        return self._value(tag, {"kind": "text"}, tensor)

    def _floats(self, tag: str, facts: Mapping[str, Any], array: np.ndarray[Any, Any]) -> Summary.Value:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        with np.errstate(over="ignore"):
            content = array.astype("<f4").tobytes()
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(array))])
        tensor = TensorProto(dtype="DT_FLOAT", tensor_shape=shape, tensor_content=content)
        return self._value(stable_tag(tag), facts, tensor)

    def _value(self, tag: str, facts: Mapping[str, Any], tensor: Any) -> Summary.Value:
        """A tensor; its description goes with the first of each file, as readers keep only that one."""
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata

        value = Summary.Value(tag=tag, tensor=tensor)
        if tag not in self._told:
            self._told.add(tag)
            content = _json({"v": SCHEMA_VERSION, **facts}).encode()
            plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content)
            # Without a data class the tensors of unknown plugins are invisible.
            value.metadata.CopyFrom(SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR))
        return value


def stable_tag(name: str) -> str:
    """A tag that is short, plain, and distinct for distinct names."""
    kept = re.sub(r"[^A-Za-z0-9_./:#-]", "_", name)
    if kept == name and len(name) <= _MAX_TAG:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{kept[: _MAX_TAG - 9]}-{digest}"


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, separators=(",", ":"))
