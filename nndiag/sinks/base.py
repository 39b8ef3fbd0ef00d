"""What every sink can do."""

from __future__ import annotations

from typing import Protocol

from nndiag.diagnosis import Update
from nndiag.report import Report


class Sink(Protocol):
    """Takes each visit's update and, at the end, the report. Errors are the caller's to guard."""

    def write(self, update: Update) -> None:
        """One visit."""

    def close(self, report: Report) -> None:
        """The end of the run, also after an exception."""
