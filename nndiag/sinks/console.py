"""The summary on the terminal, at the end and only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.diagnosis import Update
from nndiag.report import Report

if TYPE_CHECKING:
    from rich.console import Console


class ConsoleSink:
    """Prints one line about a healthy run, the findings of any other.

    Args:
        console: Where to print; None takes standard error, which keeps standard output for the program.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    def write(self, update: Update) -> None:
        """Nothing while training."""

    def close(self, report: Report) -> None:
        """Prints the summary; nothing if nothing was looked at."""
        if report.readings:
            # Rich draws a random number when it is loaded: only where the session puts the streams back.
            from rich.console import Console

            from nndiag.report.text import render_brief

            console = self._console or Console(stderr=True)
            console.print(render_brief(report))
