"""The HTML report, written at the end."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from nndiag.diagnosis import Update
from nndiag.report import Report

_log = logging.getLogger("nndiag")


class HtmlSink:
    """Writes the report as one HTML page.

    Args:
        path: Where to; None takes ``nndiag.html`` in the run directory.
        directory: The run directory, if there is one.
    """

    def __init__(self, path: str | os.PathLike[str] | None, directory: str | os.PathLike[str] | None) -> None:
        self._path = (
            Path(path) if path is not None else Path(directory) / "nndiag.html" if directory else None
        )

    def write(self, update: Update) -> None:
        """Nothing while training."""

    def close(self, report: Report) -> None:
        """Writes the page, where there is a place for it."""
        if self._path is None:
            _log.warning("html=True, but there is no log_dir to write the report to: give a path instead.")
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        report.to_html(self._path)
