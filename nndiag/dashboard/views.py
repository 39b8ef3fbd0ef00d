"""What the page asks for: each answer as plain types, or as bytes for a whole heat map."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorboard import errors

from nndiag.dashboard.series import ALL, Events, Run, is_newer, record_of
from nndiag.events import COVERAGE_TAG, FINDINGS_TAG
from nndiag.page.series import Row, plain_numbers

_GLANCE = 64
"""Samples from which the newest value of each layer and the range of a reading are taken."""

_CURVE = 400
"""Samples of a curve."""

_SNAPSHOTS = 40
_FACTS = ("measure", "reading", "about", "worst", "range", "judged", "rules", "limits")


def runs(events: Events) -> dict[str, Any]:
    """All runs with nndiag's data, and how each stands."""
    index = events.index()
    found = events.read(list(index), [FINDINGS_TAG], 1) if index else {}
    rows = []
    for name, tags in index.items():
        samples = found.get(name, {}).get(FINDINGS_TAG, [])
        record = (record_of(samples[-1]) if samples else None) or {}
        row = {"name": name, "is_newer": any(is_newer(facts) for facts in tags.values())}
        row |= {key: record.get(key) for key in ("step", "visits")}
        rows.append(row | {"findings": _brief(record.get("findings"))})
    return {"runs": rows}


def run(run: Run) -> dict[str, Any]:
    """Everything about a run but its curves: layers, findings, coverage, and the newest value of each reading."""
    record: dict[str, Any] = next((record for _, record in run.texts(FINDINGS_TAG)), {})
    coverage = next((record for _, record in run.texts(COVERAGE_TAG)), {})
    readings = [_glance(tag, run.index[tag], row) for tag, row in run.rows(run.tags("row"), _GLANCE)]
    units: list[Mapping[str, Any]] = [{**facts, "tag": tag} for tag, facts in run.tags("units").items()]
    names, facts = list(run.places), record.get("run")
    return {
        "name": run.name,
        "is_newer": run.is_newer,
        "step": record.get("step"),
        "visits": record.get("visits"),
        "is_complete": bool(record.get("is_complete")),
        "facts": facts if isinstance(facts, dict) else {},
        "layers": run.layers,
        "findings": _named(record.get("findings"), names),
        "coverage": _named(coverage.get("groups"), names),
        "notes": [str(note) for note in _rows(coverage.get("notes"))],
        "readings": readings,
        "numbers": [{"tag": tag} | _facts(facts) for tag, facts in run.tags("run").items()],
        "units": [{key: row.get(key) for key in ("tag", "measure", "reading", "layer")} for row in units],
    }


def matrix(run: Run, tag: str) -> bytes:
    """A whole heat map: the length of a header, the header as JSON, then float32 layer by layer."""
    facts = run.tags("row").get(tag)
    if facts is None:
        raise errors.NotFoundError(f"no reading {tag!r} in run {run.name!r}")
    row = next((row for _, row in run.rows([tag], ALL)), Row(np.zeros(0, np.int64), np.zeros((0, 0), "<f4")))
    shown = row.binned()
    header = {"tag": tag, "steps": shown.steps.tolist(), "samples": len(row.steps), **_facts(facts)}
    text = json.dumps(header | row.extent()).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + np.ascontiguousarray(shown.values, "<f4").tobytes()


def curves(run: Run, layers: Sequence[int]) -> dict[str, Any]:
    """Every reading of some layers over the steps."""
    found = []
    for tag, row in run.rows(run.tags("row"), _CURVE):
        for layer in layers:
            if not 0 <= layer < len(row.values):
                raise errors.NotFoundError(f"no layer {layer} in run {run.name!r}")
            seen = ~np.isnan(row.values[layer])
            if seen.any():
                steps, values = row.steps[seen].tolist(), plain_numbers(row.values[layer][seen])
                found.append({"tag": tag, "layer": layer, "steps": steps, "values": values})
    return {"curves": found}


def numbers(run: Run) -> dict[str, Any]:
    """Every number of the run over the steps."""
    tags = list(run.tags("run"))
    data = run.events.read([run.name], tags, _CURVE).get(run.name, {})
    found = []
    for tag in tags:
        samples = [s for s in data.get(tag, []) if s.numpy.size == 1]
        values = plain_numbers(np.array([float(sample.numpy.reshape(-1)[0]) for sample in samples]))
        found.append({"tag": tag, "steps": [sample.step for sample in samples], "values": values})
    return {"curves": found}


def units(run: Run, tags: Sequence[str]) -> dict[str, Any]:
    """The units of layers at the visits that are kept."""
    known = run.tags("units")
    if unknown := [tag for tag in tags if tag not in known]:
        raise errors.NotFoundError(f"no units {unknown[0]!r} in run {run.name!r}")
    data = run.events.read([run.name], tags, _SNAPSHOTS).get(run.name, {})
    return {
        "units": [
            {key: known[tag].get(key) for key in ("measure", "reading", "layer", "form", "total")}
            | {
                "tag": tag,
                "snapshots": [
                    {"step": sample.step, "values": plain_numbers(sample.numpy.reshape(-1))}
                    for sample in data.get(tag, [])
                ],
            }
            for tag in tags
        ]
    }


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: facts.get(key) for key in _FACTS}


def _glance(tag: str, facts: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """The newest value of each layer and its step."""
    values, steps = row.newest()
    return {"tag": tag, "values": values, "steps": steps, **_facts(facts), **row.extent()}


def _brief(findings: Any) -> list[dict[str, Any]]:
    """What a list of runs shows of findings."""
    kept = ("rule", "severity", "status")
    return [
        {key: row.get(key) for key in kept} | {"related": _brief(row.get("related"))}
        for row in _rows(findings)
        if isinstance(row, dict)
    ]


def _named(rows: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Findings or coverage with the names of layers in place of their numbers."""
    found = []
    for row in _rows(rows):
        if not isinstance(row, dict):
            continue
        layers = [
            names[place] if isinstance(place, int) and 0 <= place < len(names) else place
            for place in _rows(row.get("layers"))
        ]
        found.append(row | {"layers": layers, "related": _named(row.get("related"), names)})
    return found


def _rows(value: Any) -> list[Any]:
    """A list as it is; nothing in place of anything else that a file may hold."""
    return value if isinstance(value, list) else []
