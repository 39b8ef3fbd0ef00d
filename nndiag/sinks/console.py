"""The summary on the terminal, at the end and only then."""

from __future__ import annotations

from rich.console import Console

from nndiag.diagnosis import Update
from nndiag.report import Report


class ConsoleSink:
    """Prints the report once.

    Args:
        console: Where to print; None takes standard error, which keeps standard output for the program.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    def write(self, update: Update) -> None:
        """Nothing while training."""

    def close(self, report: Report) -> None:
        """Prints the report."""
        console = self._console or Console(stderr=True, highlight=False)
        console.print()
        console.print(report)
