"""The record of a run: append-only JSON lines, each with its checksum.

Every line is ``<crc32 in hex> <json>``; a line cut off by a crash is told apart from a damaged one. From the
record the report can be rebuilt with newer rules.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nndiag
from nndiag.diagnosis import Diagnosis, Update
from nndiag.errors import CheckpointError
from nndiag.findings import Coverage, Reading, Scalar, plain
from nndiag.layers import LayerInfo
from nndiag.options import Selection
from nndiag.report import Report

FILE_NAME = "nndiag.jsonl"
SCHEMA_VERSION = 1


class RecordSink:
    """Writes ``nndiag.jsonl`` into the run directory; a second run there appends a new session.

    Args:
        directory: The run directory; made when the first line is written.
    """

    def __init__(self, directory: str | Path) -> None:
        self._path = Path(directory) / FILE_NAME
        self._is_begun = False
        self._layers: dict[str, LayerInfo] = {}
        self._coverage: Coverage | None = None

    def write(self, update: Update) -> None:
        """One visit: what changed of layers and coverage, the readings, the findings when they moved."""
        lines: list[dict[str, Any]] = []
        if not self._is_begun:
            header = {"schema_version": SCHEMA_VERSION, "nndiag": nndiag.__version__}
            lines.append({"type": "run", **header})
        if dict(update.layers) != self._layers:
            self._layers = dict(update.layers)
            lines.append(
                {"type": "layers", "layers": [plain(asdict(info)) for info in self._layers.values()]}
            )
        if update.coverage != self._coverage:
            self._coverage = update.coverage
            lines.append({"type": "coverage", **update.coverage.to_dict()})
        readings = [reading.to_dict() for reading in update.readings]
        lines.append({"type": "visit", "step": update.step, "readings": readings})
        if update.changed:
            lines.append(
                {"type": "findings", "step": update.step, "findings": [f.to_dict() for f in update.findings]}
            )
        self._append(lines)

    def close(self, report: Report) -> None:
        """The end of the session, with the facts of the run."""
        if self._is_begun:
            self._append([{"type": "end", "status": report.status, "run": plain(dict(report.run))}])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        """Opened for each write: nothing is held open over a crash, and a removed directory is an error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(_encode(line) for line in lines)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)
        self._is_begun = True


def _encode(record: Mapping[str, Any]) -> str:
    body = json.dumps(record, allow_nan=False, separators=(",", ":"))
    return f"{zlib.crc32(body.encode()):08x} {body}\n"


@dataclass(frozen=True)
class Recorded:
    """One recorded visit."""

    step: int
    layers: Mapping[str, LayerInfo]
    readings: tuple[Reading, ...]
    coverage: Coverage


@dataclass
class RecordedRun:
    """The newest session of a record."""

    path: Path
    visits: list[Recorded] = field(default_factory=list)
    run: dict[str, Scalar] = field(default_factory=dict)


def read_run(path: str | Path) -> RecordedRun:
    """Reads a record.

    Args:
        path: The file, or the run directory it lies in.

    Raises:
        CheckpointError: there is none, a line is damaged, or a newer nndiag wrote it.
    """
    file = Path(path)
    file = file / FILE_NAME if file.is_dir() else file
    if not file.is_file():
        raise CheckpointError(
            f"{path} holds no {FILE_NAME}: give the directory of a run that nndiag watched."
        )
    run = RecordedRun(file)
    layers: dict[str, LayerInfo] = {}
    coverage = Coverage()
    for record in _decode(file):
        kind = record.get("type")
        if kind == "run":
            if record["schema_version"] > SCHEMA_VERSION:
                raise CheckpointError(f"{file} was written by a newer nndiag: upgrade nndiag to read it.")
            run = RecordedRun(file, run={"nndiag": record["nndiag"]})
        elif kind == "layers":
            layers = {row["name"]: LayerInfo.from_dict(row) for row in record["layers"]}
        elif kind == "coverage":
            coverage = Coverage.from_dict(record)
        elif kind == "visit":
            readings = tuple(Reading.from_dict(row) for row in record["readings"])
            run.visits.append(Recorded(record["step"], layers, readings, coverage))
        elif kind == "end":
            run.run |= record["run"]
    if not run.visits:
        raise CheckpointError(
            f"{file} holds no visit: the run ended before nndiag looked for the first time."
        )
    return run


def _decode(file: Path) -> Iterator[dict[str, Any]]:
    """The records; a last line without its end is what a crash leaves, and is dropped."""
    try:
        text = file.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    lines = text.split("\n")
    lines.pop()  # what follows the last line end: empty, or the part of a line that a crash cut off
    for number, line in enumerate(lines, 1):
        checksum, _, body = line.partition(" ")
        try:
            intact = int(checksum, 16) == zlib.crc32(body.encode())
            record = json.loads(body) if intact else None
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise CheckpointError(f"{file}, line {number} is damaged.")
        yield record


def rediagnose(run: RecordedRun, selection: Selection | None = None) -> Report:
    """Today's rules on an old run."""
    diagnosis = Diagnosis(selection or Selection(), dict(run.run))
    for visit in run.visits:
        diagnosis.add_readings(visit.step, visit.layers, visit.readings, visit.coverage)
    return diagnosis.report()
