"""The record of a run: append-only lines of JSON, each with a checksum.

A session begins with a header. Then follow the layers when they change, one line a visit, the findings when
they change, and at the end the facts of the run. ``recorded.py`` reads it all back.
"""

from __future__ import annotations

import base64
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import nndiag
from nndiag.diagnosis import Update
from nndiag.findings import Coverage, Reading, plain
from nndiag.layers import LayerInfo
from nndiag.report import Report
from nndiag.sinks.ranks import record_name

SCHEMA_VERSION = 1
CHECKSUM = b',"crc32":"'

_WIDE = 64
"""Units from which their values are packed: written out, they would be nearly all of a record."""

_MOST_BYTES = 2**27
"""Bytes that the values of one reading may expand to: a few kilobytes can be made to fill the memory."""


class RecordSink:
    """Writes ``nndiag.jsonl`` into the run directory; a second run there appends a new session.

    The file is opened for each visit, so that nothing stays half open after an error, and a directory that
    was removed is an error instead of a hole. After an error the next visit begins a new session.

    Args:
        directory: The run directory; made when the first visit is written.
        rank: Of this process; those above 0 write ``nndiag.rank1.jsonl`` and so on.
    """

    def __init__(self, directory: str | Path, rank: int = 0) -> None:
        self._path = Path(directory) / record_name(rank)
        self._is_begun = False
        self._layers: Mapping[str, LayerInfo] = {}
        self._coverage: Coverage | None = None

    def write(self, update: Update) -> None:
        """Appends one visit.

        Raises:
            OSError: the file cannot be written.
        """
        visit: dict[str, Any] = {"kind": "visit", "step": update.step}
        visit["readings"] = [pack(reading) for reading in update.readings]
        lines = [] if self._is_begun else [_header()]
        if not self._is_begun or update.layers != self._layers:
            rows = [plain(asdict(info)) for info in update.layers.values()]
            lines.append({"kind": "layers", "layers": rows})
        if not self._is_begun or update.coverage != self._coverage:
            visit["coverage"] = update.coverage.to_dict()
        lines.append(visit)
        if update.changed:
            findings = [finding.to_dict() for finding in update.findings]
            lines.append({"kind": "findings", "step": update.step, "findings": findings})
        self._append(lines)
        self._layers, self._coverage = update.layers, update.coverage

    def close(self, report: Report) -> None:
        """Ends the session with the facts of the run; a run without a visit leaves no file."""
        if self._is_begun:
            self._append([{"kind": "end", "status": report.status, "run": plain(dict(report.run))}])
            self._is_begun = False

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        mode = "r+b" if self._is_begun else "ab"  # what was begun and is gone is not begun anew in silence
        was_begun, self._is_begun = self._is_begun, False
        if not was_begun:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _end_cut_line(self._path)
        with self._path.open(mode) as file:
            file.seek(0, os.SEEK_END)
            file.write(b"".join(encode(line) for line in lines))
        self._is_begun = True


def encode(record: Mapping[str, Any]) -> bytes:
    """One line: the record, and as its last entry the CRC-32 of all that stands before."""
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return body + CHECKSUM + f'{zlib.crc32(body):08x}"}}\n'.encode()


def pack(reading: Reading) -> dict[str, Any]:
    """A reading as plain types; the values of many units as packed float64."""
    if reading.units is None or len(reading.units) < _WIDE:
        return reading.to_dict()
    units = np.asarray(reading.units, dtype="<f8").tobytes()
    packed = base64.b64encode(zlib.compress(units, 1)).decode()
    return replace(reading, units=None).to_dict() | {"units": packed}


def unpack(record: Mapping[str, Any]) -> Reading:
    """The inverse of ``pack``.

    Raises:
        ValueError: the packed values are damaged, or expand to more than any layer has.
    """
    units = record.get("units")
    if isinstance(units, str):
        stream = zlib.decompressobj()
        unpacked = stream.decompress(base64.b64decode(units), _MOST_BYTES)
        if not stream.eof:
            raise ValueError("units are cut off, or too many")
        record = {**record, "units": np.frombuffer(unpacked, dtype="<f8").tolist()}
    return Reading.from_dict(record)


def _header() -> dict[str, Any]:
    return {
        "kind": "session",
        "schema_version": SCHEMA_VERSION,
        "nndiag": nndiag.__version__,
        "time": round(time.time(), 3),
    }


def _end_cut_line(path: Path) -> None:
    """A line that a crash cut off is ended, so that the next session does not stick to it."""
    if path.is_file() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
