"""Reading a record back, and judging it again with today's rules."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nndiag
from nndiag.diagnosis import Diagnosis
from nndiag.errors import CheckpointError
from nndiag.findings import Coverage, Reading, Scalar
from nndiag.layers import LayerInfo
from nndiag.options import Selection
from nndiag.report import Report, plain_text
from nndiag.report.checks import checked, facts
from nndiag.sinks.jsonl import CHECKSUM, SCHEMA_VERSION, unpack
from nndiag.sinks.ranks import other_records, record_name, unite

_BEGIN = {"kind": "session"}


@dataclass(frozen=True)
class RecordedVisit:
    """What one visit brought, as far as it was recorded."""

    step: int
    layers: Mapping[str, LayerInfo]
    readings: tuple[Reading, ...]
    coverage: Coverage


@dataclass
class RecordedRun:
    """A recorded run.

    Attributes:
        path: The file it was read from.
        visits: In order of steps. Where a later session went over steps again, its visits count.
        run: Facts of the run, from the newest session; ``is_complete`` is False when that session has no end.
        others: What other processes of the run recorded, by rank.
        unread: Why the record of such a process could not be read, by rank.
    """

    path: Path
    visits: list[RecordedVisit] = field(default_factory=list)
    run: dict[str, Scalar] = field(default_factory=dict)
    others: dict[int, RecordedRun] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)


def read_run(path: str | Path) -> RecordedRun:
    """Reads a record.

    A last line that a crash cut off is left out, also where a later session was appended after it.

    Args:
        path: The file, or the run directory it lies in; there, the records of all processes are read.

    Raises:
        CheckpointError: there is none, a line is damaged, or a newer nndiag wrote it.
    """
    if not Path(path).is_dir():
        return _read_file(Path(path))
    run = _read_file(Path(path) / record_name(0))
    for rank, file in other_records(Path(path)).items():
        try:
            run.others[rank] = _read_file(file)
        except CheckpointError as error:  # what rank 0 saw stands without it
            run.unread[rank] = str(error)
    return run


def _read_file(file: Path) -> RecordedRun:
    reader = _Reader(RecordedRun(file))
    for number, record in _records(file):
        try:
            reader.take(record)
        except CheckpointError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, zlib.error) as error:
            raise CheckpointError(
                f"{_name(file)}, line {number} is not of an nndiag record: {_reason(error)}"
            ) from error
    if not reader.run.visits:
        raise CheckpointError(
            f"{_name(file)} holds no visit: the run ended before nndiag looked for the first time."
        )
    return reader.run


def rediagnose(run: RecordedRun, selection: Selection | None = None) -> Report:
    """Today's rules on an old run; the findings are those the run had, unless rules have changed since.

    Of several processes, each one's readings are judged; the findings are put together (``ranks.unite``).

    Raises:
        CheckpointError: the record lacks what a rule relies on.
    """
    reports = {rank: _rediagnose(each, selection or Selection()) for rank, each in _ranks(run).items()}
    return unite(reports, run.unread)


def _ranks(run: RecordedRun) -> dict[int, RecordedRun]:
    return {0: run, **run.others}


def _rediagnose(run: RecordedRun, selection: Selection) -> Report:
    diagnosis = Diagnosis(selection, dict(run.run))
    for visit in run.visits:
        readings = [reading for reading in visit.readings if selection.keeps_layer(reading.layer)]
        try:
            diagnosis.add_readings(visit.step, visit.layers, readings, visit.coverage)
        except Exception as error:
            raise CheckpointError(
                f"{_name(run.path)} cannot be judged by the rules of nndiag {nndiag.__version__}: {_reason(error)}"
            ) from error
    return diagnosis.report()


class _Reader:
    """Puts the lines of a record together."""

    def __init__(self, run: RecordedRun) -> None:
        self.run = run
        self._layers: dict[str, LayerInfo] = {}
        self._coverage = Coverage()

    def take(self, record: Mapping[str, Any]) -> None:
        """Takes the next line; a kind that is not known is left to newer readers."""
        kind, run = record["kind"], self.run
        if kind == "session":
            if record["schema_version"] > SCHEMA_VERSION:
                raise CheckpointError(
                    f"{_name(run.path)} was written by a newer nndiag: upgrade nndiag to read it."
                )
            if record["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {record['schema_version']}")
            run.run = facts({"nndiag": record["nndiag"], "is_complete": False})
        elif kind == "layers":
            infos = [checked(LayerInfo.from_dict(row)) for row in record["layers"]]
            self._layers = {info.name: info for info in infos}
        elif kind == "visit":
            self._take_visit(record)
        elif kind == "end":
            run.run = facts(record["run"])

    def _take_visit(self, record: Mapping[str, Any]) -> None:
        if "coverage" in record:
            self._coverage = checked(Coverage.from_dict(record["coverage"]))
        visits, step = self.run.visits, int(record["step"])
        while visits and visits[-1].step >= step:
            visits.pop()
        readings = tuple(checked(unpack(row)) for row in record["readings"])
        visits.append(RecordedVisit(step, self._layers, readings, self._coverage))
        if self.run.run.get("is_complete") is False:
            self.run.run |= {"visits": len(visits), "last_step": step}


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered lines; the last one of a session may be cut off."""
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a device or a pipe may have no end
            raise CheckpointError(f"{_name(file)} cannot be read: it is not a regular file")
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{_name(file)} does not exist: give the directory of a run that nndiag watched."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{_name(file)} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise CheckpointError(f"{_name(file)} cannot be read: {error}") from error
    records = [(number, _decode(line)) for number, line in enumerate(lines, 1) if line]
    for place, (number, record) in enumerate(records):
        following = records[place + 1][1] if place + 1 < len(records) else _BEGIN
        if record is not None:
            yield number, record
        elif following is None or following.get("kind") != "session" or len(records) == 1:
            raise CheckpointError(f"{_name(file)}, line {number} is damaged.")


def _name(file: Path) -> str:
    return plain_text(file, 500)


def _reason(error: Exception) -> str:
    return plain_text(f"{type(error).__name__}: {error}", 300)


def _decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None when its checksum does not fit."""
    body, found, tail = line.rpartition(CHECKSUM)
    if not found or tail != f'{zlib.crc32(body):08x}"}}'.encode():
        return None
    try:
        record = json.loads(body + b"}")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
