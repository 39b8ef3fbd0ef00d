"""``python -m tests.compiled``: what the compiler does with and without nndiag, program by program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table


class Rows:
    """What the tests recorded; a plugin of pytest."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Once for each of the three phases of a test; the last one knows all that was recorded."""
        if report.when == "teardown":
            self.rows += [value for name, value in report.user_properties if name == "compiled"]


def main() -> int:
    """The command."""
    rows = Rows()
    folder = str(Path(__file__).parent)
    status = pytest.main(["-q", "--no-header", "-m", "slow or not slow", folder], plugins=[rows])
    columns = (
        "program",
        "backend",
        "graphs",
        "graph breaks",
        "frames",
        "operations",
        "values differ",
        "probe",
    )
    table = Table(*columns, title="200 steps, without / with nndiag")
    for name, backend, bare, watched, values, probe in rows.rows:
        counts = (f"{a} / {b}" for a, b in zip(bare, watched, strict=True))
        table.add_row(name, backend, *counts, str(values), probe)
    (Console() if sys.stdout.isatty() else Console(width=140)).print(table)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
