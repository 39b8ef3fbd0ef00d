"""Where the HTML report is written."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nndiag.report import Report
from nndiag.sinks import HtmlSink
from sinks.runs import reading, update, watched

REPORT = Report(readings=(reading(),), run={"visits": 1})


def test_into_the_run_directory(tmp_path: Path) -> None:
    HtmlSink(None, tmp_path / "run").close(REPORT)
    assert (tmp_path / "run" / "nndiag.html").read_text(encoding="utf-8") == REPORT.to_html()


@pytest.mark.parametrize("as_text", [True, False])
def test_a_path_comes_first(as_text: bool, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "page.html"
    HtmlSink(str(path) if as_text else path, tmp_path / "run").close(REPORT)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (tmp_path / "run").exists()


def test_without_a_place_it_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING, "nndiag"):
        HtmlSink(None, None).close(REPORT)
    assert "log_dir" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_nothing_while_training(tmp_path: Path) -> None:
    sink = HtmlSink(None, tmp_path / "run")
    sink.write(update(0))
    assert list(tmp_path.iterdir()) == []


def test_an_older_page_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "nndiag.html"
    path.write_text("x" * 1_000_000)
    HtmlSink(None, tmp_path).close(REPORT)
    assert path.read_text(encoding="utf-8") == REPORT.to_html()


@pytest.mark.parametrize("kind", ["directory", "path"])
def test_by_the_monitor(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    monitor = watched(
        tmp_path / "run" if kind == "directory" else None,
        steps=4,
        html=True if kind == "directory" else str(path),
    )
    written = tmp_path / "run" / "nndiag.html" if kind == "directory" else path
    assert "saturated-activation" in written.read_text(encoding="utf-8")
    assert monitor.guard.faults == {}
