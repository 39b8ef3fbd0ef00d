"""The HTML report, written at the end."""

from __future__ import annotations

from pathlib import Path

from nndiag.diagnosis import Update
from nndiag.report import Report


class HtmlSink:
    """Writes ``nndiag.html``.

    Args:
        path: Where to; None takes ``nndiag.html`` in the run directory.
        directory: The run directory, if there is one.
    """

    def __init__(self, path: str | None, directory: str | None) -> None:
        self._path = Path(path) if path is not None else Path(directory or ".") / "nndiag.html"

    def write(self, update: Update) -> None:
        """Nothing while training."""

    def close(self, report: Report) -> None:
        """Writes the page."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        report.to_html(self._path)
