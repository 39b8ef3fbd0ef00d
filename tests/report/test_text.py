"""The report on a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from nndiag.findings import Coverage, CoverageEntry, Severity
from nndiag.report import Report, plain_text
from nndiag.report.text import WIDTH, render_brief
from report.samples import HOSTILE, finding, full_report, healthy_report, hostile_report, is_inert

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""What rich itself writes: colors and weights, nothing that moves the cursor or opens a link."""


def on_terminal(renderable: object, width: int = 120) -> str:
    """What a terminal with colors would be sent."""
    stream = io.StringIO()
    Console(
        file=stream, force_terminal=True, color_system="truecolor", width=width, legacy_windows=False
    ).print(renderable)
    return stream.getvalue()


def test_it_says_everything() -> None:
    text = str(full_report())
    assert text.startswith("nndiag: 1 critical, 1 warning, 1 note (3 layers, 7 visits, last step 12,345")
    for words in (
        "■ critical  saturated-activation  ND201",
        "▲ warning  dead-units  ND202",
        "● info  init-law  ND313",
        "✓ resolved  units-locked  ND301  at fc6",
        "fc4 and fc5",
        "the run",
        "since step 3 (never seen clean), last seen at step 12,345",
        "since step 3 (clean at step 2)",
        "Shrink the weights with `torch.nn.init.xavier_normal_`.",
        "check     It stays low.",
        "value judged 0.875, threshold 0.7, saturated 0.875, samples 512, activation tanh,",
        "signal-vanishes  ND311  at fc2",
        "saturation: fc2: not called in the observed steps",
        "Only `rank 0` was watched.",
    ):
        assert words in text
    assert "not applicable" not in text


def test_symptoms_of_symptoms_are_said() -> None:
    report = full_report()
    assert "ND601" in report.to_html()
    assert "ND601" in str(report)
    assert "ND601" in report.to_markdown()


def test_critical_comes_before_what_is_less() -> None:
    text = str(full_report())
    assert text.index("ND201") < text.index("ND202") < text.index("ND313") < text.index("ND301")


def test_an_empty_report_says_so() -> None:
    assert str(Report.empty()) == "nndiag: nothing was measured"
    assert Report.empty().status == "ok"


def test_a_healthy_report_says_so() -> None:
    assert str(healthy_report()) == "nndiag: no warnings (1 layer, 3 visits, last step 20)"
    assert healthy_report().status == "ok"


def test_a_resolved_report_is_ok() -> None:
    report = replace(healthy_report(), findings=(finding(status="resolved", severity=Severity.CRITICAL),))
    assert report.status == "ok"
    assert "no warnings" in str(report)
    assert "from step 3 to 12,345 (clean at step 2 before), resolved" in " ".join(str(report).split())


def test_a_note_is_no_warning() -> None:
    report = replace(healthy_report(), findings=(finding(severity=Severity.INFO),))
    assert report.status == "ok"
    assert str(report).startswith("nndiag: no warnings, 1 note (")


def test_an_active_symptom_counts_for_the_status() -> None:
    symptom = finding(severity=Severity.CRITICAL)
    report = Report((finding(severity=Severity.INFO, related=(symptom,)),))
    assert report.status == "critical"


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_inert(kind: str) -> None:
    text = str(hostile_report(HOSTILE[kind]))
    assert all(is_inert(line) for line in text.split("\n"))
    assert max(map(cell_len, text.split("\n"))) <= WIDTH == 100
    assert text.count("■ critical") == 1  # no line of a name's own


@pytest.mark.parametrize("kind", ["ansi color", "newline", "right to left", "null byte", "lone surrogate"])
def test_hostile_rule_of_a_resolved_finding(kind: str) -> None:
    lines = str(Report((finding(rule=HOSTILE[kind], status="resolved"),))).split("\n")
    assert all(is_inert(line) and not line.startswith("#") for line in lines)


@pytest.mark.parametrize("width", [40, 100, 200])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_inert_in_color(kind: str, width: int) -> None:
    shown = on_terminal(hostile_report(HOSTILE[kind]), width)
    assert "\x1b[" in shown
    plain = _STYLE.sub("", shown)
    assert all(is_inert(line) for line in plain.split("\n"))
    assert max(map(cell_len, plain.split("\n"))) <= min(width, WIDTH)


def test_color_and_plain_say_the_same() -> None:
    plain = "\n".join(line.rstrip() for line in _STYLE.sub("", on_terminal(full_report(), 100)).splitlines())
    assert plain.rstrip() == str(full_report())


@pytest.mark.parametrize("kind", ["rich markup", "template", "format", "emphasis", "backticks", "script"])
def test_markup_is_shown_as_it_is(kind: str) -> None:
    text = " ".join(str(Report((finding((HOSTILE[kind],)),))).split())
    assert plain_text(HOSTILE[kind]) in text


def test_lists_are_cut_and_counted() -> None:
    entries = tuple(CoverageEntry(f"fc{i}", "saturation", "not observed", f"reason {i}") for i in range(20))
    many = tuple(CoverageEntry(f"x{i}", "initialization", "not observed", "same") for i in range(9))
    text = str(Report((finding(tuple(f"fc{i}" for i in range(9))),), coverage=Coverage(many + entries)))
    assert "fc0, fc1, fc2, fc3 and 5 more" in text
    assert "initialization: x0, x1, x2, 6 more: same" in text
    assert "reason 10" in text
    assert "reason 11" not in text
    assert "and 9 more reasons" in text


def test_brief_is_one_line_for_a_healthy_run() -> None:
    assert _STYLE.sub("", on_terminal(render_brief(healthy_report()))).strip().count("\n") == 0


def test_brief_names_notes_and_shows_what_is_grave() -> None:
    note = finding(("fc7",), rule="ND313", name="init-law", severity=Severity.INFO, message="A long note.")
    report = replace(healthy_report(), findings=(finding(), note, finding(("fc8",), status="resolved")))
    shown = _STYLE.sub("", on_terminal(render_brief(report)))
    assert "saturated-activation" in shown
    assert "Notes: ND313 init-law at fc7" in shown
    assert "A long note." not in shown
    assert "fc8" not in shown
    calm = _STYLE.sub("", on_terminal(render_brief(replace(report, findings=(note,)))))
    assert calm.strip().endswith("ND313 init-law at fc7")
    assert calm.strip().count("\n") == 0
