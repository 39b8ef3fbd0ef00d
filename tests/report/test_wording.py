"""The words all faces share."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nndiag.findings import Coverage, CoverageEntry, Scalar, Severity
from nndiag.report import Report
from nndiag.report.wording import (
    advice,
    coverage_counts,
    evidence,
    headline,
    number,
    places,
    since,
    summary,
    unseen,
    where,
)
from report.samples import finding, full_report, healthy_report


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "yes"),
        (False, "no"),
        (12_345, "12,345"),
        (0.123456, "0.1235"),
        (9_999.4, "9999"),
        (12_345.6, "12,346"),
        (12_345_678.0, "1.235e+07"),
        (1e-9, "1e-09"),
        (-20_000.0, "-20,000"),
        (0.0, "0"),
        (math.nan, "NaN"),
        (math.inf, "infinite"),
        (-math.inf, "-infinite"),
        (None, "unknown"),
        ("tanh", "tanh"),
        ("\x1b[0m", "\\x1b[0m"),
    ],
)
def test_number(value: Scalar, words: str) -> None:
    assert number(value) == words


@pytest.mark.parametrize(
    ("severities", "words"),
    [
        ((), "no warnings"),
        ((Severity.INFO,), "no warnings, 1 note"),
        ((Severity.INFO, Severity.INFO), "no warnings, 2 notes"),
        ((Severity.WARNING,), "1 warning"),
        ((Severity.WARNING, Severity.WARNING, Severity.INFO), "2 warnings, 1 note"),
        ((Severity.CRITICAL,), "1 critical"),
        ((Severity.CRITICAL, Severity.CRITICAL, Severity.WARNING), "2 critical, 1 warning"),
    ],
)
def test_headline(severities: tuple[Severity, ...], words: str) -> None:
    findings = tuple(finding(severity=severity) for severity in severities)
    resolved = finding(severity=Severity.CRITICAL, status="resolved")
    assert headline(replace(healthy_report(), findings=(*findings, resolved))) == words


def test_summary() -> None:
    assert summary(Report.empty()) == ""
    assert summary(full_report()) == "3 layers, 7 visits, last step 12,345, probe exact, 2.1% of the time"
    assert summary(Report(run={"visits": 1, "last_step": -1})) == "1 visit"
    brief = Report(run={"overhead": 0.306, "overhead_seconds": 0.12})
    assert summary(brief) == "120 ms or 30.6% of the time"
    assert summary(Report(run={"overhead": 0.02, "overhead_seconds": 61.3})) == "61 s or 2.0% of the time"
    assert summary(Report(run={"is_complete": False})) == "the record stops before the run ended"


def test_places() -> None:
    assert places(finding(())) == ["the run"]
    assert places(finding(("a", "b", "c", "d"))) == ["a", "b", "c", "d"]
    assert places(finding(("a", "b", "c", "d", "e", "f"))) == ["a", "b", "c", "d", "2 more"]
    assert [where(finding(names)) for names in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == [
        "the run",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert where(finding(("a", "b", "c")), 1) == "a and 2 more"


def test_since() -> None:
    assert since(finding()) == "since step 3 (clean at step 2), last seen at step 12,345"
    assert since(finding(first_step=12_345)) == "since step 12,345 (clean at step 2)"
    assert since(finding(last_clean_step=None, last_step=3)) == "since step 3 (never seen clean)"
    assert since(finding(status="resolved")) == "from step 3 to 12,345 (clean at step 2 before), resolved"


def test_evidence() -> None:
    given = finding(evidence={"dead_units": 3, "missing": None, "share": 0.5})
    assert evidence(given) == [
        ("value judged", "0.875"),
        ("threshold", "0.7"),
        ("dead units", "3"),
        ("share", "0.5"),
    ]
    assert evidence(finding(value=None, threshold=0.5, evidence={})) == []
    assert evidence(finding(value=1.0, threshold=None, evidence={})) == [("value judged", "1")]


def test_advice() -> None:
    assert advice(finding(recommendation="Do x. It worked when `y` falls.")) == ("Do x.", "`y` falls.")
    assert advice(finding(recommendation="Do x. It worked when y falls.")) == ("Do x.", "Y falls.")
    assert advice(finding(recommendation="Do x.")) == ("Do x.", "")
    assert advice(finding(recommendation="")) == ("", "")


def test_unseen_is_grouped_by_measure_and_reason() -> None:
    rows = [("a", "m", "why"), ("b", "m", "why"), ("c", "m", "else"), ("a", "n", "why"), (None, "n", "")]
    entries = [CoverageEntry(layer, measure, "not observed", reason) for layer, measure, reason in rows]
    quiet = [CoverageEntry("d", "m", "measured"), CoverageEntry("e", "m", "not applicable", "why")]
    assert [tuple(group) for group in unseen(Coverage((*entries, *quiet)))] == [
        ("m", "why", ("a", "b")),
        ("m", "else", ("c",)),
        ("n", "why", ("a",)),
        ("n", "no reason known", ("the run",)),
    ]


def test_coverage_counts() -> None:
    rows = [
        ("a", "m", "measured"),
        ("b", "m", "measured"),
        ("c", "m", "not observed"),
        ("a", "n", "measured"),
    ]
    entries = tuple(CoverageEntry(layer, measure, status) for layer, measure, status in rows)  # type: ignore[arg-type]
    assert coverage_counts(Coverage(entries)) == {
        "m": {"measured": 2, "not observed": 1, "not applicable": 0},
        "n": {"measured": 1, "not observed": 0, "not applicable": 0},
    }
