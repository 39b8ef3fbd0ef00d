"""Nothing while training, a few lines at the end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from report.samples import HOSTILE, is_inert
from rich.console import Console

from nndiag.findings import Severity
from nndiag.report import Report
from nndiag.sinks import ConsoleSink
from sinks.runs import finding, reading, update, watched


def console() -> tuple[io.StringIO, Console]:
    """What is printed, and where to print."""
    stream = io.StringIO()
    return stream, Console(file=stream, width=120, force_terminal=False)


def closed_with(report: Report) -> str:
    """What the sink prints about a report."""
    stream, target = console()
    ConsoleSink(target).close(report)
    return stream.getvalue()


def test_nothing_while_training() -> None:
    stream, target = console()
    sink = ConsoleSink(target)
    for step in range(5):
        sink.write(update(step, changed=True, findings=(finding(severity=Severity.CRITICAL),)))
    assert stream.getvalue() == ""


def test_a_healthy_run_is_one_line() -> None:
    text = closed_with(Report(readings=(reading(),), run={"visits": 3, "last_step": 20}))
    assert text.startswith("nndiag: no warnings (3 visits, last step 20)")
    assert text.count("\n") == 1


def test_notes_are_named_in_that_line() -> None:
    note = finding(("fc1", "fc2", "fc3"), severity=Severity.INFO, message="Long words.")
    text = closed_with(Report((note,), (reading(),)))
    assert "1 note" in text
    assert "ND201 saturated-activation at fc1, fc2 and 1 more" in text
    assert "Long words." not in text
    assert text.count("\n") == 1


def test_what_is_grave_is_shown_and_what_is_resolved_is_not() -> None:
    text = closed_with(Report((finding(), finding(("fc2",), name="over", status="resolved")), (reading(),)))
    assert "1 warning" in text
    assert "saturated-activation" in text
    assert "over" not in text
    assert text.count("\n") < 12


def test_nothing_where_nothing_was_looked_at() -> None:
    assert closed_with(Report.empty()) == ""


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_are_inert(kind: str) -> None:
    name = HOSTILE[kind]
    note = finding((name,), severity=Severity.INFO)
    grave = finding((name,), name=name, message=name, recommendation=name, evidence={name: name})
    for report in (Report((grave, note), (reading(name),)), Report((note,), (reading(name),))):
        assert all(is_inert(line) for line in closed_with(report).split("\n"))


@pytest.mark.parametrize("kind", ["ansi color", "right to left", "null byte", "lone surrogate"])
def test_hostile_rules_of_notes_are_inert(kind: str) -> None:
    note = finding(rule=HOSTILE[kind], name=HOSTILE[kind], severity=Severity.INFO)
    assert all(is_inert(line) for line in closed_with(Report((note,), (reading(),))).split("\n"))


def test_the_end_of_a_run_is_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched(tmp_path, console=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("nndiag: ") == 1
    assert "saturated-activation" in err
    assert "Not observed" not in err


def test_silence_when_told(capsys: pytest.CaptureFixture[str]) -> None:
    watched(None, steps=3, console=False)
    assert capsys.readouterr() == ("", "")
