"""However a run is ended, what was recorded before can be read."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nndiag
from harmless import dying
from nndiag.cli import app
from nndiag.sinks import read_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process cannot be forked here")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
Record = Callable[[str, object], None]


def plan(a_kind: int) -> list[tuple[str, str, int, float]]:
    """Moments spread over the run, drawn once and for all."""
    chance = random.Random(0)
    return [
        (f"{number.name}-{driver}-{place}", driver, number, (place + chance.random()) / a_kind)
        for number in SIGNALS
        for driver in dying.DRIVERS
        for place in range(a_kind)
    ]


def read_back(directory: Path) -> list[int]:
    """Steps that ``nndiag report`` reads; none when it says that nothing was recorded."""
    result = CliRunner().invoke(app, ["report", str(directory / dying.RECORDS)])
    if isinstance(result.exception, nndiag.CheckpointError):
        assert re.search("does not exist|holds no visit", str(result.exception))
        return []
    assert isinstance(result.exception, SystemExit | None), result.exception
    return [visit.step for visit in read_run(directory / dying.RECORDS).visits]


def flushed(directory: Path) -> list[int]:
    """Steps whose visits the record had taken when the signal came."""
    path = directory / dying.FLUSHED
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("a_kind", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_all_that_was_flushed_can_be_read(a_kind: int, tmp_path: Path, record_property: Record) -> None:
    runs, environment = plan(a_kind), {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, dying.__file__, str(tmp_path)],
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert min(json.loads(told.stdout).values()) > 1000
    lost: dict[str, object] = {}
    numbers = []
    for name, *_ in runs:
        expected, found = flushed(tmp_path / name), read_back(tmp_path / name)
        numbers.append(len(expected))
        if found[: len(expected)] != expected or len(found) > len(expected) + 1:
            lost[name] = (expected, found)
    record_property("signals", (len(runs), len(lost)))
    assert lost == {}
    assert max(numbers) > min(numbers)
    for driver in dying.DRIVERS:
        assert read_back(tmp_path / f"whole-{driver}") == flushed(tmp_path / f"whole-{driver}") != []
