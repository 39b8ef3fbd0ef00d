"""What every tool said about every run, in one file; what is there is not run again."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..case import Case

ROOT = Path(__file__).parents[3]
RunName = tuple[str, bool]
"""Name of a case, and whether its twin is meant."""


@dataclass
class Results:
    """Records of runs, by tool and by run; kept in ``file`` after each one."""

    file: Path | None = None
    runs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> Results:
        """Those of a file; none if it is not there."""
        return cls(file, json.loads(file.read_text(encoding="utf-8")) if file.exists() else {})

    def get(self, tool: str, run: RunName) -> dict[str, Any] | None:
        """The record of a run, if it was made."""
        return self.runs.get(tool, {}).get(_key(run))

    def add(self, tool: str, run: RunName, record: dict[str, Any]) -> None:
        """Keeps a record, on disk too: a command that is cut off goes on where it was."""
        self.runs.setdefault(tool, {})[_key(run)] = record
        if self.file is not None:
            half = self.file.with_suffix(".part")
            half.write_text(json.dumps(self.runs, indent=1) + "\n", encoding="utf-8")
            half.replace(self.file)


def _key(run: RunName) -> str:
    name, twin = run
    return f"{name}, twin" if twin else name


def runs_of(cases: Sequence[Case]) -> list[RunName]:
    """Every case, and the twins."""
    return [(case.name, twin) for case in cases for twin in ((False, True) if case.has_twin else (False,))]


def gather(results: Results, tool: str, python: Path, runs: Sequence[RunName]) -> Iterator[RunName]:
    """Runs what is missing of a tool, one process for all; yields each run as it ends.

    Raises:
        subprocess.CalledProcessError: the process broke off; what it did is kept.
    """
    missing = [run for run in runs if results.get(tool, run) is None]
    if not missing:
        return
    command = [str(python), "-m", "tests.clinic.rivals.drivers", tool]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        process.stdin.write(json.dumps(missing))
        process.stdin.close()
        for line in process.stdout:
            record = json.loads(line)
            run = record.pop("case"), record.pop("twin")
            results.add(tool, run, record)
            yield run
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
