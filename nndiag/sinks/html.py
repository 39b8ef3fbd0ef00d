"""The HTML report, written at the end."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from nndiag.diagnosis import Update
from nndiag.errors import CheckpointError
from nndiag.report import Report
from nndiag.sinks.ranks import record_name
from nndiag.sinks.recorded import RecordedRun, read_run

MOST_BYTES = 64 * 2**20
"""Of a record that is read back at the end of a run: this takes some seconds, and hundreds of megabytes."""

_log = logging.getLogger("nndiag")


class HtmlSink:
    """Writes the report as one HTML page, with the series of the run where a record has them.

    Args:
        path: Where to; None takes ``nndiag.html`` in the run directory.
        directory: The run directory, if there is one.
    """

    def __init__(self, path: str | os.PathLike[str] | None, directory: str | os.PathLike[str] | None) -> None:
        self._record = Path(directory) / record_name(0) if directory else None
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
        self._path.write_text(self._page(report), encoding="utf-8")

    def _page(self, report: Report) -> str:
        if self._record is None or not self._record.exists():
            return report.to_html()
        if self._record.stat().st_size > MOST_BYTES:
            command = f"nndiag report {self._record.parent} --format html"
            _log.warning("The record is long: the HTML report has the newest readings only. All: %s", command)
            return report.to_html()
        try:
            return recorded_page(report, read_run(self._record))
        except CheckpointError as error:
            _log.warning("The HTML report is written without the series of the run: %s", error)
            return report.to_html()


def recorded_page(report: Report, run: RecordedRun) -> str:
    """The page of a report with the series of its run."""
    from nndiag.report.html import render_html

    return render_html(report, run.visits, run.path.resolve().parent.name)
