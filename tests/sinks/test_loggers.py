"""Which sinks a Trainer's loggers call for, and what loggers without event files are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nndiag.diagnosis import Update
from nndiag.findings import Coverage, Finding, Reading, Severity
from nndiag.measures import MEASURES
from nndiag.options import MonitorOptions
from nndiag.report import Report
from nndiag.sinks import HtmlSink, RecordSink, TensorBoardSink, sinks_for
from nndiag.sinks.loggers import COLUMNS, HEADLINE, MLFlowSink, PlainLoggerSink, WandbSink, headline


def kinds(*log_dirs: Any, fast_dev_run: int = 0, **options: Any) -> set[type]:
    """The kinds of sinks of a Trainer whose loggers write into these directories."""
    loggers = [SimpleNamespace(log_dir=log_dir) for log_dir in log_dirs]
    trainer = SimpleNamespace(fast_dev_run=fast_dev_run, barebones=False, loggers=loggers)
    sinks = sinks_for(trainer, MonitorOptions.checked(console=False, **options))
    told = sum(isinstance(sink, PlainLoggerSink) for sink in sinks)
    assert told == (0 if fast_dev_run else len(loggers))
    return set(map(type, sinks)) - {PlainLoggerSink}


def test_a_record_lies_beside_what_a_logger_writes(tmp_path: Path) -> None:
    assert kinds(str(tmp_path)) == kinds(tmp_path) == kinds(None, tmp_path) == {RecordSink}
    assert kinds(tmp_path, html=True) == {RecordSink, HtmlSink}


@pytest.mark.parametrize("log_dirs", [(), (None,), (3,), ("s3://bucket/run",), ("gs://bucket/run",)], ids=str)
def test_nothing_is_written_without_a_directory(log_dirs: tuple[Any, ...]) -> None:
    """An address of a cloud store would become a local directory of that name."""
    assert kinds(*log_dirs) == kinds(*log_dirs, html=True) == set()


@pytest.mark.parametrize("fast_dev_run", [0, 1])
def test_log_dir_says_where(fast_dev_run: int, tmp_path: Path) -> None:
    told = str(tmp_path)
    assert kinds(fast_dev_run=fast_dev_run, log_dir=told) == {TensorBoardSink, RecordSink}
    assert kinds("s3://bucket/run", fast_dev_run=fast_dev_run, log_dir=told) == {TensorBoardSink, RecordSink}


def test_a_dry_run_has_no_directory(tmp_path: Path) -> None:
    assert kinds(tmp_path, fast_dev_run=1) == set()
    assert kinds(tmp_path, fast_dev_run=1, html=str(tmp_path / "x.html")) == {HtmlSink}


class Told:
    """A logger that keeps what it is told."""

    run_id = "7"

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.shown: list[tuple[Any, ...]] = []
        self.experiment = SimpleNamespace(log_text=lambda *text: self.shown.append(text))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((step, metrics))

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        self.shown.append((key, columns, data, step))


def update(step: int, *findings: Finding, **values: float) -> Update:
    """A visit whose readings of layers ``a`` and ``b`` are a tenth and all of a value."""
    names = [(name.split("__"), value) for name, value in values.items()]
    readings = [
        Reading(measure, name, layer, step, value * share)
        for (measure, name), value in names
        for layer, share in (("a", 0.1), ("b", 1.0))
    ]
    return Update(step, {}, tuple(readings), findings, Coverage(), False)


def finding(severity: Severity = Severity.WARNING, **changes: Any) -> Finding:
    """One about a layer with a name that means something to a terminal."""
    fields: dict[str, Any] = {
        "rule": "ND202",
        "name": "dead-units",
        "measure": "saturation",
        "severity": severity,
        "layers": ("a\x1b[2J",),
        "first_step": 3,
        "last_clean_step": None,
        "last_step": 5,
        "status": "active",
        "value": 1.0,
        "threshold": 0.5,
        "message": "m",
        "recommendation": "r",
    }
    return Finding(**fields | changes)


def test_the_headline_is_counts_and_worst_values() -> None:
    told = headline(update(5, finding(), saturation__dead_share=0.5, saturation__phi=2.0))
    assert told == {
        "findings_info": 0.0,
        "findings_warning": 1.0,
        "findings_critical": 0.0,
        "saturation/dead_share": 0.5,
    }


def test_the_headline_is_about_ten_and_measures_have_it() -> None:
    assert len(HEADLINE) + len(Severity) <= 12
    assert {name.partition("/")[0] for name in HEADLINE} <= MEASURES.keys()


def test_a_step_is_told_once() -> None:
    logger = Told()
    sink = PlainLoggerSink(logger)
    for step in (0, 1, 1, 0, 2):
        sink.write(update(step))
    assert [step for step, _ in logger.metrics] == [0, 1, 2]
    assert all(name.startswith("nndiag/") for _, metrics in logger.metrics for name in metrics)


def test_findings_are_shown_when_a_verdict_changes() -> None:
    logger = Told()
    sink = WandbSink(logger)
    spread = finding(layers=("a", "b"))
    for step, found in enumerate([(), (finding(),), (spread,), (finding(Severity.CRITICAL),)]):
        sink.write(update(step, *found))
    assert [step for *_, step in logger.shown] == [0, 1, 3]
    key, columns, rows, _ = logger.shown[-1]
    assert (key, columns) == ("nndiag/findings", list(COLUMNS))
    assert rows == [["critical", "ND202", "dead-units", r"a\x1b[2J", 3, "active", "m", "r"]]


def test_symptoms_have_rows_of_their_own() -> None:
    logger = Told()
    WandbSink(logger).write(update(0, finding(related=(finding(rule="ND601"),))))
    assert [row[1] for row in logger.shown[0][2]] == ["ND202", "ND601"]


def test_mlflow_gets_the_report_as_text() -> None:
    logger = Told()
    MLFlowSink(logger).write(update(4, finding()))
    ((run, text, path),) = logger.shown
    assert (run, path) == ("7", "nndiag/report.md")
    assert "dead-units" in text


@pytest.mark.parametrize("kind", [PlainLoggerSink, WandbSink, MLFlowSink])
def test_a_run_without_visits_shows_nothing(kind: Any) -> None:
    logger = Told()
    kind(logger).close(Report.empty())
    assert logger.shown == logger.metrics == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("WandbLogger", WandbSink), ("MLFlowLogger", MLFlowSink), ("CometLogger", PlainLoggerSink)],
)
def test_a_logger_is_known_by_the_name_of_its_class(name: str, kind: type) -> None:
    logger = type("Own", (type(name, (Told,), {}),), {})()
    trainer = SimpleNamespace(fast_dev_run=0, barebones=False, loggers=[logger, Told()])
    sinks = sinks_for(trainer, MonitorOptions.checked(console=False))
    assert [type(sink) for sink in sinks] == [kind, PlainLoggerSink]
