"""What a run takes along in a checkpoint, so that the one that resumes it can go on from there.

That is what rules have said so far, the history of readings, and what was seen first, with which later visits are
compared. It travels as one tensor of compressed JSON and two numbers: a checkpoint with it loads under
``weights_only=True``. Recorded batches do not travel: the probe records anew.
"""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

from nndiag.diagnosis import Diagnosis
from nndiag.errors import CheckpointError
from nndiag.findings import Reading, Scalar, plain
from nndiag.ledger import Ledger
from nndiag.measures import RULES
from nndiag.options import Selection
from nndiag.report.checks import checked, facts
from nndiag.rules import Series
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import STATISTICS, Statistic

_log = logging.getLogger("nndiag")

VERSION = 1

LIMIT = 60_000
"""Bytes; with what ``torch.save`` adds, a checkpoint grows by less than 64 kB."""

_MOST_BYTES = 2**26
"""What the bytes may expand to."""

_WIDE = 64
"""Units from which their values stay behind."""


@dataclass
class Memory:
    """What is known of a run at one step.

    Attributes:
        step: The last step that was taken.
        tracks: What rules have said, by rule and layer (``Ledger.rows``).
        series: Readings by measure, name and layer: the first, and the newest ones.
        first: The first snapshot, as far as it was kept.
        facts: What the session itself has counted.
    """

    step: int
    tracks: Sequence[Mapping[str, Any]] = ()
    series: Mapping[tuple[str, str, str | None], Series] = field(default_factory=dict)
    first: Snapshot | None = None
    facts: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def of(cls, diagnosis: Diagnosis, step: int, facts: Mapping[str, Scalar]) -> Self:
        """Of a run as it stands."""
        return cls(step, diagnosis.ledger.rows(), diagnosis.history.series, diagnosis.first, facts)

    def restore(self, diagnosis: Diagnosis) -> None:
        """Hands everything to a diagnosis that has seen nothing yet."""
        diagnosis.ledger.take(self.tracks)
        diagnosis.history.series |= self.series
        diagnosis.history.step = self.step
        diagnosis.first = self.first

    def to_state(self) -> dict[str, Any]:
        """Plain types and one tensor. Where there is too much, the less important part stays behind."""
        document = {"tracks": [], "series": [], "facts": plain(dict(self.facts)), "first": None}
        document = _with(document, "tracks", sorted(self.tracks, key=lambda row: row["first_step"] < 0))
        series = [_series_row(series) for _, series in sorted(self.series.items(), key=_importance)]
        document = _with(document, "series", series)
        packed = _pack(document)
        if self.first is not None:
            packed = _pack(document | {"first": _first_row(self.first, LIMIT - len(packed))})
        blob = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        return {"version": VERSION, "step": self.step, "memory": blob}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of ``to_state``.

        Raises:
            CheckpointError: a newer nndiag wrote it, or it is damaged.
        """
        try:
            if state["version"] > VERSION:
                raise CheckpointError("a newer nndiag wrote it: upgrade nndiag to go on from there.")
            document = _unpack(bytes(state["memory"].tolist()))
            rows = [row for row in document["tracks"] if row["rule"] in RULES]
            Ledger(Selection()).take(rows)
            series = dict(_series(row) for row in document["series"])
            first = None if document["first"] is None else _first(document["first"])
            return cls(int(state["step"]), rows, series, first, facts(document["facts"]))
        except CheckpointError:
            raise
        except Exception as error:  # of whatever kind: it comes from a file
            raise CheckpointError(f"it is damaged ({type(error).__name__}).") from error

    @classmethod
    def recalled(cls, state: Mapping[str, Any]) -> Self | None:
        """As ``from_state``; None, and a warning, where that fails: a run that resumes shall not stop at it."""
        try:
            return cls.from_state(state)
        except CheckpointError as error:
            _log.warning(
                "What nndiag saved in the checkpoint is left out: %s The run goes on without it.", error
            )
            return None


def _with(document: dict[str, Any], name: str, rows: Sequence[Any]) -> dict[str, Any]:
    """The document with as many of the rows, the first ones, as there is room for."""
    while rows and len(_pack(document | {name: rows})) > LIMIT:
        rows = rows[: len(rows) // 2]
    return document | {name: rows}


def _importance(item: tuple[tuple[str, str, str | None], Series]) -> tuple[bool, bool]:
    """Facts of the run come first, then what rules decide by."""
    measure, name, _ = item[0]
    return measure != "run", (measure, name) not in {(rule.measure, rule.reads) for rule in RULES.values()}


def _series_row(series: Series) -> list[Any]:
    """One row: the first reading, then the newest ones without it."""
    readings = [series.first, *(reading for reading in series.recent if reading is not series.first)]
    first = series.first
    return [first.measure, first.name, first.layer, first is series.recent[0], *map(_reading_row, readings)]


def _reading_row(reading: Reading) -> dict[str, Any]:
    row = reading.to_dict()
    for known in ("measure", "name", "layer"):
        row.pop(known)
    if reading.units is not None and len(reading.units) >= _WIDE:
        row.pop("units")
    return row


def _series(row: Sequence[Any]) -> tuple[tuple[str, str, str | None], Series]:
    measure, name, layer, is_recent, *rows = row
    place = {"measure": measure, "name": name, "layer": layer}
    first, *newest = [checked(Reading.from_dict({**place, **each})) for each in rows]
    series = Series(first)
    if newest and not is_recent:
        series.recent.clear()
    series.recent.extend(newest)
    return (measure, name, layer), series


def _first_row(first: Snapshot, budget: int) -> dict[str, Any]:
    """The small statistics of the first snapshot, the smallest first: whole signatures are not asked for."""
    kept: list[Any] = []
    sized = [(sum(t.nbytes for t in s.to_tensors().values()), key) for key, s in first.statistics.items()]
    for size, key in sorted(sized):
        cost = size * 4 // 3 + 400
        if cost > budget:
            break
        budget -= cost
        kept.append([list(key), _tensors(first.statistics[key])])
    return {"step": first.step, "source": first.source, "statistics": kept}


def _tensors(statistic: Statistic) -> dict[str, Any]:
    host = {name: tensor.numpy() for name, tensor in statistic.cpu().to_tensors().items()}
    return {
        name: [array.dtype.str, list(array.shape), base64.b64encode(array.tobytes()).decode()]
        for name, array in host.items()
    }


def _first(row: Mapping[str, Any]) -> Snapshot:
    statistics = {Key(*key): _statistic(key[3], parts) for key, parts in row["statistics"]}
    return Snapshot(int(row["step"]), row["source"], {}, statistics)


def _statistic(name: str, parts: Mapping[str, Any]) -> Statistic:
    tensors = {}
    for part, (kind, shape, data) in parts.items():
        if kind not in ("<i8", "<f8"):
            raise ValueError(f"numbers of kind {kind!r}")
        array = np.frombuffer(base64.b64decode(data), dtype=kind).reshape(shape)
        tensors[part] = torch.from_numpy(array.copy())
    return STATISTICS[name.partition("/")[0]].from_tensors(tensors)


def _pack(document: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(document, allow_nan=False, separators=(",", ":")).encode())


def _unpack(packed: bytes) -> dict[str, Any]:
    stream = zlib.decompressobj()
    text = stream.decompress(packed, _MOST_BYTES)
    if not stream.eof:
        raise ValueError("cut off, or too long")
    document: dict[str, Any] = json.loads(text)
    return document
