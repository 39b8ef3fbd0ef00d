"""Where the HTML report is written."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from report.page import Page

from nndiag.report import Report
from nndiag.sinks import HtmlSink, RecordSink, html
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


def data_of(page: Path) -> dict[str, Any]:
    """What the page holds."""
    found: dict[str, Any] = json.loads(Page(page.read_text(encoding="utf-8")).scripts[1])
    return found


@pytest.mark.parametrize("kind", ["directory", "path"])
def test_the_series_of_the_record(kind: str, tmp_path: Path) -> None:
    record = RecordSink(tmp_path / "mine")
    for step in (0, 1, 5):
        record.write(update(step, readings=(reading(step=step, value=step / 10),)))
    record.close(REPORT)
    path = tmp_path / "mine" / "nndiag.html" if kind == "directory" else tmp_path / "page.html"
    HtmlSink(None if kind == "directory" else path, tmp_path / "mine").close(REPORT)
    data = data_of(path)
    assert (data["run"]["name"], data["run"]["is_series"]) == ("mine", True)
    assert data["rows"]["saturation/saturated"]["steps"] == [0, 1, 5]


def test_a_damaged_record_does_not_cost_the_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "nndiag.jsonl").write_text("nonsense\n")
    with caplog.at_level(logging.WARNING, "nndiag"):
        HtmlSink(None, tmp_path).close(REPORT)
    assert "without the series of the run" in caplog.text
    assert (tmp_path / "nndiag.html").read_text(encoding="utf-8") == REPORT.to_html()


def test_a_long_record_is_not_read_while_a_run_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RecordSink(tmp_path)
    for step in (0, 1):
        record.write(update(step, readings=(reading(step=step),)))
    monkeypatch.setattr(html, "MOST_BYTES", 100)
    with caplog.at_level(logging.WARNING, "nndiag"):
        HtmlSink(None, tmp_path).close(REPORT)
    assert f"nndiag report {tmp_path} --format html" in caplog.text
    assert data_of(tmp_path / "nndiag.html")["run"]["is_series"] is False


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
    assert data_of(written)["run"]["is_series"] is (kind == "directory")
    assert monitor.guard.faults == {}
