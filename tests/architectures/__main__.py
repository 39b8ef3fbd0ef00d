"""``python -m tests.architectures``: trains each architecture bare and watched, and prints what came of it."""

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
            self.rows += [value for name, value in report.user_properties if name == "architecture"]


def main() -> int:
    """The command."""
    rows = Rows()
    status = pytest.main(["-q", "--no-header", "-m", "slow", str(Path(__file__).parent)], plugins=[rows])
    columns = ("library", "architecture", "layers", "values differ", "probe", "refused because", "accused of")
    table = Table(*columns, title="Public architectures, three steps, nndiag at each")
    for *cells, accused in rows.rows:
        table.add_row(*map(str, cells), ", ".join(accused) or "nothing")
    probed = sum(row[4].endswith("samples") for row in rows.rows)
    table.add_section()
    differ, accusing = sum(row[3] for row in rows.rows), sum(bool(row[6]) for row in rows.rows)
    table.add_row("all", str(len(rows.rows)), "", str(differ), f"{probed} probed", "", str(accusing))
    (Console() if sys.stdout.isatty() else Console(width=160)).print(table)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
